package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// An overview is the cluster on one screen, also for programs.
type overview struct {
	Leader    string         `json:"leader"`
	Voters    []string       `json:"voters"`
	Survives  int            `json:"survives"` // failures of voters that leave a majority
	Nodes     []nodeOverview `json:"nodes"`
	Pods      podOverview    `json:"pods"`
	Brakes    []Brake        `json:"brakes"` // what the leader holds back now
	Troubles  []string       `json:"troubles"`
	AgeMillis int64          `json:"ageMs,omitempty"`   // -1 where nobody can tell
	Partial   string         `json:"partial,omitempty"` // what this answer cannot tell
}

type nodeOverview struct {
	Name    string  `json:"name"`
	Status  string  `json:"status"`
	Role    string  `json:"role"` // leader, voter or empty
	Address string  `json:"address"`
	Pods    int     `json:"pods"`
	CPU     float64 `json:"cpu"`    // in use, 0…1, as gossiped
	Memory  float64 `json:"memory"` // in use, 0…1
	Disk    float64 `json:"disk"`
	Heard   bool    `json:"heard"` // by gossip
}

type podOverview struct {
	Wanted int `json:"wanted"`
	Ready  int `json:"ready"`
	Total  int `json:"total"`
}

// Status tells the whole cluster on one screen: the machines, who leads, how
// many failures it survives, and what is not as wanted.
func (c *cluster) Status(ctx context.Context, req *skeinv1.StatusRequest) (*skeinv1.TextResponse, error) {
	if err := need(ctx, RoleView); err != nil {
		return nil, err
	}
	age, err := c.freshness(ctx)
	if err != nil {
		return nil, err
	}
	o, err := c.overview()
	if err != nil {
		return nil, err
	}
	o.AgeMillis = age.Milliseconds()
	out := &skeinv1.TextResponse{Text: o.text(), AgeMs: o.AgeMillis, Note: o.Partial}
	if req.GetJson() {
		if out.Json, err = json.MarshalIndent(o, "", "    "); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *Server) overview() (*overview, error) {
	o := &overview{Leader: s.cfg.Consensus.Leader(), Troubles: []string{}, Voters: []string{}, Brakes: []Brake{}, Partial: s.partial()}
	voters := map[string]bool{}
	if members, _, err := s.cfg.Consensus.Members(); err == nil {
		for _, m := range members {
			if m.Voter {
				voters[m.Name] = true
			}
		}
	}
	if s.part {
		for name, h := range s.cfg.Peers.Health() {
			if h.Voter {
				voters[name] = true
			}
		}
	}
	o.Voters = slices.Sorted(maps.Keys(voters))
	if s.cfg.Brakes != nil {
		o.Brakes = append(o.Brakes, s.cfg.Brakes()...)
	}
	perNode, err := s.overlookPods(o)
	if err != nil {
		return nil, err
	}
	health := s.cfg.Peers.Health()
	down := 0
	for _, row := range s.cfg.Consensus.Store().List(object.KindNode, "", "") {
		node, err := object.Decode[corev1.Node](row)
		if err != nil {
			return nil, err
		}
		h := health[node.Name]
		n := nodeOverview{
			Name: node.Name, Status: object.NodeStatus(node), Address: node.Annotations[object.AnnotationAdvertise],
			Pods: perNode[node.Name], CPU: h.CPU, Memory: h.Memory, Disk: h.Disk, Heard: h.State == "alive",
		}
		switch {
		case n.Status != "Ready" || node.Name == s.cfg.Name:
		case o.Leader == "" && !n.Heard:
			n.Status = "Unknown"
		case h.State == "suspect":
			n.Status = "Suspect"
			o.Troubles = append(o.Troubles, "node "+node.Name+" is suspected of being lost: it misses its beats")
		}
		switch {
		case node.Name == o.Leader:
			n.Role = "leader"
		case voters[node.Name]:
			n.Role = "voter"
		}
		if n.Role != "" && h.State != "alive" && node.Name != s.cfg.Name {
			down++
		}
		o.Troubles = append(o.Troubles, nodeTroubles(s.asItIs(node))...)
		o.Nodes = append(o.Nodes, n)
	}
	o.Survives = max(0, (len(voters)-1)/2-down)
	if o.Leader == "" {
		o.Troubles = append(noQuorum(), o.Troubles...)
	}
	return o, s.overlookDeployments(o)
}

// noQuorum says what no leader means, and the way out.
func noQuorum() []string {
	return []string{
		"no leader: a majority of the voters cannot be reached. Pods go on, are restarted and checked as before, and reads are answered; " +
			"nothing can be changed, and nothing is moved",
		"bring back enough of the voters' machines; only if they are lost for good: \"skeind recover\" on one that is left",
	}
}

// asItIs adds to this very node what it could not write down: a cluster whose
// only disk is full or hangs has no other place to say so.
func (s *Server) asItIs(node *corev1.Node) *corev1.Node {
	if node.Name != s.cfg.Name || s.cfg.Pressure == nil {
		return node
	}
	now := node.DeepCopy()
	for kind, why := range s.cfg.Pressure() {
		now.Status.Conditions = slices.DeleteFunc(now.Status.Conditions, func(c corev1.NodeCondition) bool { return string(c.Type) == kind })
		now.Status.Conditions = append(now.Status.Conditions, corev1.NodeCondition{
			Type: corev1.NodeConditionType(kind), Status: corev1.ConditionTrue, Message: why,
		})
	}
	return now
}

func nodeTroubles(node *corev1.Node) []string {
	var out []string
	for _, cond := range node.Status.Conditions {
		switch {
		case cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue:
			out = append(out, fmt.Sprintf("node %s is not ready: %s (%s)", node.Name, cond.Message, cond.Reason))
		case cond.Type != corev1.NodeReady && cond.Status == corev1.ConditionTrue:
			out = append(out, fmt.Sprintf("node %s takes no new Pods (%s): %s", node.Name, cond.Type, cond.Message))
		}
	}
	if len(out) == 0 && node.Spec.Unschedulable {
		out = append(out, fmt.Sprintf("node %s is cordoned: nothing new is placed on it", node.Name))
	}
	return out
}

// overlookPods counts the Pods, in all and of each node.
func (s *Server) overlookPods(o *overview) (map[string]int, error) {
	pods, err := s.pods("", "", nil)
	if err != nil {
		return nil, err
	}
	perNode := map[string]int{}
	for _, p := range pods {
		o.Pods.Total++
		if podReady(p) {
			o.Pods.Ready++
		}
		if p.Spec.NodeName != "" {
			perNode[p.Spec.NodeName]++
		}
		bare := len(p.OwnerReferences) == 0
		if bare && p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded {
			o.Pods.Wanted++
			if !podReady(p) {
				o.Troubles = append(o.Troubles, fmt.Sprintf("pod %s/%s: %s", p.Namespace, p.Name, complaint(p)))
			}
		}
	}
	return perNode, nil
}

func (s *Server) overlookDeployments(o *overview) error {
	for _, row := range s.cfg.Consensus.Store().List(object.KindDeployment, "", "") {
		d, err := object.Decode[appsv1.Deployment](row)
		if err != nil {
			return err
		}
		want := int32(1)
		if d.Spec.Replicas != nil {
			want = *d.Spec.Replicas
		}
		o.Pods.Wanted += int(want)
		if d.Status.ReadyReplicas >= want {
			continue
		}
		why := fmt.Sprintf("deployment %s/%s: %d of %d Pods ready", d.Namespace, d.Name, d.Status.ReadyReplicas, want)
		pods, err := s.podsOfDeployment(d)
		if err != nil {
			return err
		}
		slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return trouble(b) - trouble(a) })
		for _, p := range pods {
			if !podReady(p) {
				why += fmt.Sprintf("; %s: %s", p.Name, complaint(p))
				break
			}
		}
		o.Troubles = append(o.Troubles, why)
	}
	return nil
}

func (o *overview) text() string {
	var b strings.Builder
	leader := o.Leader
	if leader == "" {
		leader = "none"
	}
	fmt.Fprintf(&b, "Leader:    %s\n", leader)
	fmt.Fprintf(&b, "Voters:    %s (%s)\n", strings.Join(o.Voters, ", "), o.survival())
	if o.Partial == "" {
		fmt.Fprintf(&b, "Pods:      %d of %d wanted are ready\n\n", o.Pods.Ready, o.Pods.Wanted)
	} else {
		fmt.Fprintf(&b, "Pods:      %d of the %d here are ready, the others are not known\n\n", o.Pods.Ready, o.Pods.Total)
	}
	o.brakes(&b)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tSTATUS\tROLE\tPODS\tCPU\tMEMORY\tDISK\tADDRESS")
	for _, n := range o.Nodes {
		load := [3]string{"-", "-", "-"}
		if n.Heard {
			for i, v := range []float64{n.CPU, n.Memory, n.Disk} {
				load[i] = fmt.Sprintf("%.0f%%", v*100)
			}
		}
		role := n.Role
		if role == "" {
			role = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", n.Name, n.Status, role, n.Pods, load[0], load[1], load[2], n.Address)
	}
	_ = w.Flush() // a builder does not fail
	if len(o.Troubles) == 0 {
		b.WriteString("\nEverything is as wanted.\n")
		return b.String()
	}
	b.WriteString("\nNot as wanted:\n")
	for _, t := range o.Troubles {
		b.WriteString("  " + t + "\n")
	}
	return b.String()
}

// brakes tells what is held back, since when and until when.
func (o *overview) brakes(b *strings.Builder) {
	for _, one := range o.Brakes {
		until := "until"
		if one.Open {
			until = "until about"
		}
		fmt.Fprintf(b, "Brake:     %s (since %s, %s %s)\n", one.Why,
			one.Since.UTC().Format(time.TimeOnly), until, one.Until.UTC().Format(time.TimeOnly))
	}
	if len(o.Brakes) > 0 {
		b.WriteString("\n")
	}
}

// survival says in words how many failures more there may be.
func (o *overview) survival() string {
	n := o.Survives
	switch {
	case o.Leader == "":
		return "too few of them reach each other"
	case n == 0 && len(o.Nodes) < 3:
		return "survives no failure: three machines are needed for that"
	case n == 0:
		return "survives no further failure now"
	case n == 1:
		return "survives the loss of 1 machine"
	}
	return fmt.Sprintf("survives the loss of %d machines", n)
}

// Version tells what runs here.
func (c *cluster) Version(context.Context, *skeinv1.VersionRequest) (*skeinv1.VersionResponse, error) {
	v := c.cfg.Versions
	return &skeinv1.VersionResponse{
		Version: v.GetVersion(), GoVersion: v.GetGoVersion(), RuncVersion: v.GetRuncVersion(),
		Node: c.cfg.Name, Leader: c.cfg.Consensus.Leader(),
	}, nil
}
