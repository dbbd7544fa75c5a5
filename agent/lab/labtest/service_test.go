//go:build lab

package labtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

const shop = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 4
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers:
      - name: shop
        image: skein/demo:v1
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {type: NodePort, selector: {app: shop}, ports: [{name: http, port: 80, targetPort: http}]}
`

// A place is a network namespace to speak from.
type place struct{ path string }

func (l *lab) machine(node string) place {
	return place{"/run/netns/skein-" + name + "-" + node}
}

// inPod is a Pod's own network.
func (l *lab) inPod(p *corev1.Pod) place {
	return place{filepath.Join(l.dir, p.Spec.NodeName, "data", "run", "ns", string(p.UID), "net")}
}

// dial connects from there. The address is literal, so no other goroutine helps.
func (p place) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type answer struct {
		conn net.Conn
		err  error
	}
	got := make(chan answer, 1)
	var away func()
	away = func() {
		runtime.LockOSThread() // and ends with it
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and where it is the lab takes us for one of its own.
			defer runtime.UnlockOSThread()
			done := make(chan struct{})
			go func() { defer close(done); away() }()
			<-done
			return
		}
		ns, err := netns.GetFromPath(p.path)
		if err == nil {
			err = netns.Set(ns)
			_ = ns.Close()
		}
		if err != nil {
			got <- answer{nil, fmt.Errorf("enter %s: %w", p.path, err)}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		got <- answer{conn, err}
	}
	go away()
	a := <-got
	return a.conn, a.err
}

func (p place) client(keep bool) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: !keep, MaxIdleConnsPerHost: 64}}
}

// who asks a demo Pod its name.
func (p place) who(addr string) (string, error) {
	res, err := p.client(false).Get("http://" + addr + "/")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var said struct{ Pod string }
	err = json.NewDecoder(res.Body).Decode(&said)
	return said.Pod, err
}

// resolver asks the cluster's own for names.
func (p place) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return p.dial(ctx, network, "169.254.53.53:53")
	}}
}

func (l *lab) service(named string) (vip string, nodePort int32) {
	l.Helper()
	var s corev1.Service
	l.object(&s, "service", named)
	return s.Spec.ClusterIP, s.Spec.Ports[0].NodePort
}

func TestAServiceIsReachedFromEverywhere(t *testing.T) {
	l := raise(t, 3)
	l.apply(shop)
	vip, port := l.service("shop")
	pods := l.pods("app=shop")
	from := map[string]place{"n1": l.machine("n1"), "n3": l.machine("n3"), "a Pod of it": l.inPod(&pods[0])}
	for where, p := range from {
		for _, at := range []string{vip + ":80", fmt.Sprintf("10.213.0.2:%d", port)} {
			l.await(5*time.Second, at+" from "+where+" leads to all four", func() string {
				seen := map[string]bool{}
				for range 40 {
					who, err := p.who(at)
					if err != nil {
						return err.Error()
					}
					seen[who] = true
				}
				if len(seen) != 4 {
					return fmt.Sprint(seen)
				}
				return ""
			})
		}
	}
	in := l.inPod(&pods[0])
	for _, tt := range []struct{ name, want string }{
		{"shop.default.svc.cluster.local", vip},
		{strings.ReplaceAll(pods[1].Status.PodIP, ".", "-") + ".default.pod.cluster.local", pods[1].Status.PodIP},
	} {
		got, err := in.resolver().LookupHost(t.Context(), tt.name)
		if err != nil || len(got) != 1 || got[0] != tt.want {
			t.Errorf("%s is %v, %v; want %s", tt.name, got, err, tt.want)
		}
	}
	if _, srv, err := in.resolver().LookupSRV(t.Context(), "http", "tcp", "shop.default.svc.cluster.local"); err != nil || len(srv) != 1 || srv[0].Port != 80 {
		t.Errorf("its port: %v, %v", srv, err)
	}
	for i := range pods { // by their own addresses, across nodes
		if who, err := in.who(pods[i].Status.PodIP + ":8080"); err != nil || who != pods[i].Name {
			t.Errorf("%s answers as %q, %v", pods[i].Name, who, err)
		}
	}
}

func TestAServiceIsPublishedOnTheLaptop(t *testing.T) {
	l := raise(t, 2)
	l.apply(shop)
	_, nodePort := l.service("shop")
	host := freePort(t)
	l.skein("expose", "deploy/shop", "--name", "front", "--port", "80", "--publish", fmt.Sprint(host))
	here := place{"/proc/self/ns/net"}
	for what, at := range map[string]int{"its node port": int(nodePort), "where it is published": host} {
		l.await(5*time.Second, what, func() string {
			who, err := here.who(fmt.Sprintf("127.0.0.1:%d", at))
			if err != nil || !strings.HasPrefix(who, "shop-") {
				return fmt.Sprint(who, err)
			}
			return ""
		})
	}
	l.skein("delete", "svc/front")
	l.await(5*time.Second, "nobody listens any more", func() string {
		if who, err := here.who(fmt.Sprintf("127.0.0.1:%d", host)); err == nil {
			return who
		}
		return ""
	})
}

// traffic asks again and again, so many times a second, until it is told to stop.
type traffic struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu         sync.Mutex
	ok, failed int
	last       time.Time // of those that failed
	why        map[string]int
}

func (p place) load(url string, rate int) *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	tr := &traffic{cancel: cancel, done: make(chan struct{}), why: map[string]int{}}
	client := p.client(false)
	go func() {
		defer close(tr.done)
		var calls sync.WaitGroup
		defer calls.Wait()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for range 120 * rate { // two minutes at most
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			calls.Go(func() {
				res, err := client.Get(url)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					if err == nil && res.StatusCode != http.StatusOK {
						err = fmt.Errorf("status %d", res.StatusCode)
					}
				}
				tr.mu.Lock()
				defer tr.mu.Unlock()
				if tr.ok++; err != nil {
					tr.ok--
					tr.failed, tr.last = tr.failed+1, time.Now()
					tr.why[err.Error()]++
				}
			})
		}
	}()
	return tr
}

func (tr *traffic) end() {
	tr.cancel()
	<-tr.done
}

func TestNoRequestIsLostWhilePodsComeAndGo(t *testing.T) {
	l := raise(t, 3)
	l.apply(shop)
	vip, _ := l.service("shop")
	load := l.machine("n1").load("http://"+vip+"/", 300)
	defer load.end()
	for range 3 {
		l.skein("delete", "pod/"+l.pods("app=shop")[0].Name)
	}
	l.skein("scale", "deploy/shop", "--replicas", "2")
	l.skein("scale", "deploy/shop", "--replicas", "5")
	l.skein("node", "drain", "n3")
	l.skein("node", "uncordon", "n3")
	l.skein("restart", "deploy/shop")
	load.end()
	if load.failed > 0 || load.ok < 300 {
		t.Errorf("%d of %d requests failed: %v", load.failed, load.ok+load.failed, load.why)
	}
}

func TestAPowerLossLeavesAServiceStanding(t *testing.T) {
	l := raise(t, 3)
	l.apply(shop)
	vip, _ := l.service("shop")
	_, follower := l.leader()
	load := l.machine("n1").load("http://"+vip+"/", 200)
	defer load.end()
	victim := follower
	if victim == "n1" {
		victim = "n3"
	}
	killed := time.Now()
	l.lab("kill", victim)
	l.await(20*time.Second, "the Pods run elsewhere", func() string {
		ready := 0
		for _, p := range l.pods("app=shop") {
			if isReady(&p) && p.Spec.NodeName != victim {
				ready++
			}
		}
		if ready < 4 {
			return fmt.Sprint(ready)
		}
		return ""
	})
	load.end()
	t.Logf("%d requests, %d failed, the last %v after the power was cut: %v", load.ok+load.failed, load.failed, load.last.Sub(killed), load.why)
	if load.ok < 100 {
		t.Error("there was hardly any load")
	}
	// A request on its way to the dead machine may wait out its 5 s.
	if load.failed > 0 && load.last.Sub(killed) > 7*time.Second {
		t.Errorf("requests failed up to %v after the power was cut", load.last.Sub(killed))
	}
}

func TestWhatOthersBreakInTheNetworkIsMended(t *testing.T) {
	l := raise(t, 2)
	l.apply(shop)
	vip, _ := l.service("shop")
	var near *corev1.Pod
	for _, p := range l.pods("app=shop") {
		if p.Spec.NodeName == "n2" {
			near = &p
		}
	}
	for what, command := range map[string]string{
		"the table of Services":   "nft delete table ip skein",
		"the routes to the other": "ip route flush proto 74",
		"the resolver's address":  "ip addr del 169.254.53.53/32 dev lo",
	} {
		l.lab("exec", "n2", "--", "sh", "-c", command)
		l.await(5*time.Second, what+" is there again", func() string {
			for range 8 {
				if _, err := l.machine("n2").who(vip + ":80"); err != nil {
					return err.Error()
				}
			}
			if got, err := l.inPod(near).resolver().LookupHost(t.Context(), "shop.default.svc.cluster.local"); err != nil || got[0] != vip {
				return fmt.Sprint(got, err)
			}
			return ""
		})
	}
}

func TestTheDoctorFindsWhatIsWrong(t *testing.T) {
	l := raise(t, 3)
	l.apply(shop)
	l.await(10*time.Second, "nothing is wrong", func() string {
		if got := l.try("doctor", "net"); got.code != 0 {
			return got.out
		}
		return ""
	})
	for _, tt := range []struct{ do, undo []string }{
		{[]string{"exec", "n2", "--", "nft", "add", "table", "ip", "other", ";", "add", "chain", "ip", "other", "c", "{ type filter hook forward priority 0; policy drop; }"}, []string{"exec", "n2", "--", "nft", "delete", "table", "ip", "other"}},
	} {
		l.lab(tt.do[0], tt.do[1:]...)
		l.await(10*time.Second, "n2's Pods are not reached", func() string {
			if got := l.try("doctor", "net"); got.code != 1 || !strings.Contains(got.out, "on n2 (direct): no answer") {
				return got.out
			}
			return ""
		})
		l.lab(tt.undo[0], tt.undo[1:]...)
	}
}

const fence = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: fence}
spec:
  podSelector: {matchLabels: {app: shop}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: friend}}}]
    ports: [{port: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: friend, labels: {role: friend}}
spec: {containers: [{name: c, image: skein/demo:v1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec: {containers: [{name: c, image: skein/demo:v1}]}
`

func TestANetworkPolicyIsKeptOnEveryNode(t *testing.T) {
	l := raise(t, 2)
	l.apply(shop)
	l.apply(fence)
	vip, _ := l.service("shop")
	friend, stranger := l.inPod(l.pod("friend")), l.inPod(l.pod("stranger"))
	l.await(5*time.Second, "a friend is heard, and a stranger is not", func() string {
		for range 8 {
			if _, err := friend.who(vip + ":80"); err != nil {
				return "the friend: " + err.Error()
			}
		}
		for _, p := range l.pods("app=shop") {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			conn, err := stranger.dial(ctx, "tcp", p.Status.PodIP+":8080")
			cancel()
			if err == nil {
				_ = conn.Close()
				return "the stranger reaches " + p.Name
			}
		}
		return ""
	})
	l.skein("label", "pod/stranger", "role=friend")
	l.await(5*time.Second, "the stranger has become a friend", func() string {
		if _, err := stranger.who(vip + ":80"); err != nil {
			return err.Error()
		}
		return ""
	})
	l.skein("delete", "netpol/fence")
}
