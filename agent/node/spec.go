package node

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/image"
)

// oomScoreAdj is what Kubernetes gives: a Guaranteed Pod dies last, a
// BestEffort one first.
const (
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// containerSpec joins what the Pod asks for with what its image says. The
// result is final: nothing below this adds to it.
func containerSpec(pod *corev1.Pod, c *corev1.Container, img image.Config, at place) (container.Spec, error) {
	spec := container.Spec{
		Sandbox: sandboxOf(pod, at),
		Cwd:     cmp.Or(c.WorkingDir, img.WorkingDir, "/"),
		User:    img.User,
		Labels:  map[string]string{},
		Volumes: img.Volumes,
		Stdin:   c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
	}
	env, err := environment(pod, c, img, at)
	if err != nil {
		return spec, err
	}
	spec.Env = env.list()
	spec.Args = arguments(c, img, env)
	if len(spec.Args) == 0 {
		return spec, errors.New("nothing to run: neither the container nor its image names a command")
	}
	spec.Resources = resources(pod, c, at.machine.MemoryBytes)
	spec.Sysctls = sysctlsOf(pod)
	limits, err := object.Ulimits(pod.Annotations)
	if err != nil {
		return spec, err
	}
	for _, u := range limits {
		spec.Ulimits = append(spec.Ulimits, container.Ulimit(u))
	}
	if o := ownerOf(pod); o.Group > 0 {
		spec.Groups = append(spec.Groups, uint32(o.Group)) //nolint:gosec // validated to fit when the Pod was accepted
	}
	if err := applySecurity(&spec, pod, c); err != nil {
		return spec, err
	}
	return spec, nil
}

func sandboxOf(pod *corev1.Pod, at place) container.Sandbox {
	host := hostnameOf(pod)
	s := container.Sandbox{
		Pod: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name,
		Hostname: host, HostNetwork: pod.Spec.HostNetwork, Hosts: hostsOf(pod), Users: object.OwnUsers(&pod.Spec), Resolv: resolvOf(pod, at.resolv, at.names),
		SharePIDs: isTrue(pod.Spec.ShareProcessNamespace), HostPIDs: pod.Spec.HostPID, HostIPC: pod.Spec.HostIPC,
	}
	if addr, err := netip.ParseAddr(at.podIP); err == nil && !pod.Spec.HostNetwork {
		s.Address, s.MTU = addr, at.mtu
	}
	return s
}

func hostnameOf(pod *corev1.Pod) string {
	host := cmp.Or(pod.Spec.Hostname, pod.Name)
	if whole := object.FQDN(pod); whole != "" && isTrue(pod.Spec.SetHostnameAsFQDN) {
		return whole // which was seen to fit when the Pod was accepted
	}
	if len(host) > 63 {
		host = strings.TrimRight(host[:63], "-.")
	}
	return host
}

// arguments follows Kubernetes: command replaces the entry point and with it
// the image's own arguments; args replaces those alone.
func arguments(c *corev1.Container, img image.Config, env variables) []string {
	var args []string
	switch {
	case len(c.Command) > 0:
		args = append(env.expandAll(c.Command), env.expandAll(c.Args)...)
	case len(c.Args) > 0:
		args = append(slices.Clone(img.Entrypoint), env.expandAll(c.Args)...)
	default:
		args = append(slices.Clone(img.Entrypoint), img.Cmd...)
	}
	return args
}

// stopSignal is what a container is told to end by; empty: SIGTERM.
func stopSignal(c *corev1.Container, img image.Config) string {
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		return string(*c.Lifecycle.StopSignal)
	}
	return img.StopSignal
}

// variables are a container's environment in order, the last of a name wins.
type variables struct {
	names  []string
	values map[string]string
}

func (v *variables) set(name, value string) {
	if _, ok := v.values[name]; !ok {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

func (v *variables) list() []string {
	out := make([]string, 0, len(v.names))
	for _, name := range v.names {
		out = append(out, name+"="+v.values[name])
	}
	return out
}

// field is the value of a downward field. Unknown paths were refused when the
// Pod was accepted.
func field(pod *corev1.Pod, path string, at place) string {
	switch path {
	case "metadata.name":
		return pod.Name
	case "metadata.namespace":
		return pod.Namespace
	case "metadata.uid":
		return string(pod.UID)
	case "spec.nodeName":
		return pod.Spec.NodeName
	case "spec.serviceAccountName":
		return cmp.Or(pod.Spec.ServiceAccountName, "default")
	case "status.hostIP", "status.hostIPs":
		return at.hostIP
	case "status.podIP", "status.podIPs":
		if pod.Spec.HostNetwork {
			return at.hostIP
		}
		return cmp.Or(at.podIP, pod.Status.PodIP)
	}
	if key, ok := subscript(path, "metadata.labels"); ok {
		return pod.Labels[key]
	}
	if key, ok := subscript(path, "metadata.annotations"); ok {
		return pod.Annotations[key]
	}
	return ""
}

// subscript takes the key out of path['key'].
func subscript(path, of string) (string, bool) {
	rest, ok := strings.CutPrefix(path, of+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "']")
}

// expand replaces $(NAME) by the variable, and $$ by a dollar. What names no
// variable is left as it is.
func (v *variables) expand(s string) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i == len(s)-1 {
			out.WriteString(s)
			return out.String()
		}
		out.WriteString(s[:i])
		rest := s[i+1:]
		switch rest[0] {
		case '$':
			out.WriteByte('$')
			s = rest[1:]
		case '(':
			end := strings.IndexByte(rest, ')')
			if end < 0 {
				out.WriteString("$" + rest)
				return out.String()
			}
			if value, ok := v.values[rest[1:end]]; ok {
				out.WriteString(value)
			} else {
				out.WriteString("$" + rest[:end+1])
			}
			s = rest[end+1:]
		default:
			out.WriteByte('$')
			s = rest
		}
	}
}

func (v *variables) expandAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = v.expand(s)
	}
	return out
}

// sysctlsOf are the kernel's settings that a Pod asks for.
func sysctlsOf(pod *corev1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil || len(pod.Spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		out[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
	}
	return out
}

// hostsOf are the lines of /etc/hosts that a Pod asks for.
func hostsOf(pod *corev1.Pod) string {
	var out strings.Builder
	for _, a := range pod.Spec.HostAliases {
		out.WriteString(a.IP + "\t" + strings.Join(a.Hostnames, " ") + "\n")
	}
	return out.String()
}

// oomBurstable is Kubernetes' formula: the more of the machine's memory a container
// has asked for, the later it is killed when the machine runs out.
func oomBurstable(request, memory int64) int {
	if memory <= 0 {
		return 500
	}
	return int(min(max(1000-1000*request/memory, 1000+oomGuaranteed), oomBestEffort-1))
}

func resources(pod *corev1.Pod, c *corev1.Container, memory int64) container.Resources {
	limits, requests := c.Resources.Limits, c.Resources.Requests
	r := container.Resources{
		CPUMilli:    limits.Cpu().MilliValue(),
		CPUShares:   requests.Cpu().MilliValue(),
		MemoryBytes: limits.Memory().Value(),
		PIDs:        defaultPIDs,
	}
	switch {
	case guaranteed(pod):
		r.OOMScoreAdj = oomGuaranteed
	case qos(pod) == corev1.PodQOSBestEffort:
		r.OOMScoreAdj = oomBestEffort
	default:
		r.OOMScoreAdj = oomBurstable(requests.Memory().Value(), memory)
		if object.IsSidecar(c) { // it goes after those that it is for, as Kubernetes has it
			for i := range pod.Spec.Containers {
				r.OOMScoreAdj = min(r.OOMScoreAdj, oomBurstable(pod.Spec.Containers[i].Resources.Requests.Memory().Value(), memory))
			}
		}
	}
	return r
}

// defaultPIDs bounds the processes of one container, so that a fork bomb stays
// its own trouble.
const defaultPIDs = 4096

func guaranteed(pod *corev1.Pod) bool {
	for _, c := range membersOf(pod) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, request := c.Resources.Limits[name], c.Resources.Requests[name]
			if limit.IsZero() || limit.Cmp(request) != 0 {
				return false
			}
		}
	}
	return true
}

func applySecurity(spec *container.Spec, pod *corev1.Pod, c *corev1.Container) error {
	sc := merged(pod.Spec.SecurityContext, c.SecurityContext)
	if sc.RunAsUser != nil {
		spec.User = strconv.FormatInt(*sc.RunAsUser, 10)
		if sc.RunAsGroup != nil {
			spec.User += ":" + strconv.FormatInt(*sc.RunAsGroup, 10)
		}
	} else if sc.RunAsGroup != nil {
		user, _, _ := strings.Cut(cmp.Or(spec.User, "0"), ":")
		spec.User = user + ":" + strconv.FormatInt(*sc.RunAsGroup, 10)
	}
	if sc.RunAsNonRoot != nil && *sc.RunAsNonRoot {
		user, _, _ := strings.Cut(spec.User, ":")
		if user == "" || user == "0" || user == "root" {
			return errors.New("securityContext.runAsNonRoot is set, but the container would run as root")
		}
		if _, err := strconv.ParseUint(user, 10, 32); err != nil {
			return fmt.Errorf("securityContext.runAsNonRoot is set, but whether the image's user %q is root cannot be known: set runAsUser", user)
		}
	}
	if p := pod.Spec.SecurityContext; p != nil {
		for _, g := range p.SupplementalGroups {
			spec.Groups = append(spec.Groups, uint32(g)) //nolint:gosec // validated to fit when the Pod was accepted
		}
	}
	spec.Security.Privileged = isTrue(sc.Privileged)
	spec.Security.ReadOnlyRoot = isTrue(sc.ReadOnlyRootFilesystem)
	spec.Security.AllowPrivilegeEscalation = isTrue(sc.AllowPrivilegeEscalation)
	if sc.Capabilities != nil {
		for _, name := range sc.Capabilities.Add {
			spec.Security.AddCapabilities = append(spec.Security.AddCapabilities, string(name))
		}
		for _, name := range sc.Capabilities.Drop {
			spec.Security.DropCapabilities = append(spec.Security.DropCapabilities, string(name))
		}
	}
	if p := sc.SeccompProfile; p != nil {
		spec.Security.Unconfined = p.Type == corev1.SeccompProfileTypeUnconfined
		if p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil {
			spec.Security.SeccompProfile = *p.LocalhostProfile
		}
	}
	return nil
}

// merged is the container's security context, with the Pod's where it says nothing.
func merged(pod *corev1.PodSecurityContext, c *corev1.SecurityContext) corev1.SecurityContext {
	var out corev1.SecurityContext
	if c != nil {
		out = *c
	}
	if pod == nil {
		return out
	}
	if out.RunAsUser == nil {
		out.RunAsUser = pod.RunAsUser
	}
	if out.RunAsGroup == nil {
		out.RunAsGroup = pod.RunAsGroup
	}
	if out.RunAsNonRoot == nil {
		out.RunAsNonRoot = pod.RunAsNonRoot
	}
	if out.SeccompProfile == nil {
		out.SeccompProfile = pod.SeccompProfile
	}
	return out
}

func isTrue(b *bool) bool { return b != nil && *b }
