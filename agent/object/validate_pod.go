package object

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	maxContainers = 64
	maxGrace      = 1<<31 - 1 // seconds
	maxID         = 1<<31 - 1 // of users and groups
)

func (p *problems) pod(s *corev1.PodSpec, path string) {
	if len(s.Containers) == 0 {
		p.add(path+".containers", "a Pod needs at least one")
	}
	if len(s.Containers)+len(s.InitContainers) > maxContainers {
		p.add(path+".containers", "more than %d, with the initContainers", maxContainers)
		return
	}
	switch s.RestartPolicy {
	case corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever:
	default:
		p.add(path+".restartPolicy", "%q: want Always, OnFailure or Never", clip(string(s.RestartPolicy)))
	}
	p.volumes(s, path)
	p.pullSecrets(s.ImagePullSecrets, path+".imagePullSecrets")
	p.between(path+".terminationGracePeriodSeconds", *s.TerminationGracePeriodSeconds, 0, maxGrace)
	p.labels(s.NodeSelector, path+".nodeSelector")
	if s.NodeName != "" {
		p.each(path+".nodeName", s.NodeName, validation.IsDNS1123Subdomain(s.NodeName))
	}
	if s.Hostname != "" {
		p.each(path+".hostname", s.Hostname, validation.IsDNS1123Label(s.Hostname))
	}
	if s.HostPID && s.ShareProcessNamespace != nil && *s.ShareProcessNamespace {
		p.hint(path+".shareProcessNamespace", "hostPID shares the node's processes, those of the Pod among them", "cannot be true together with hostPID")
	}
	p.ownUsers(s, path)
	if s.SecurityContext != nil {
		p.podSecurity(s.SecurityContext, path+".securityContext")
		p.sysctls(s, path+".securityContext.sysctls")
	}
	p.hostPorts(s, path)
	p.hostAliases(s.HostAliases, path+".hostAliases")
	p.dns(s, path)
	if d := s.ActiveDeadlineSeconds; d != nil {
		p.between(path+".activeDeadlineSeconds", *d, 1, maxGrace)
	}
	seen := make(map[string]bool)
	each := func(c *corev1.Container, at string) {
		if c.Name != "" && seen[c.Name] {
			p.add(at+".name", "%q is the name of two containers", clip(c.Name))
		}
		seen[c.Name] = true
		p.container(c, at)
		p.nonRoot(s, c, at)
	}
	for i := range s.InitContainers {
		at := indexed(path+".initContainers", i)
		each(&s.InitContainers[i], at)
		p.initContainer(&s.InitContainers[i], at)
	}
	for i := range s.Containers {
		each(&s.Containers[i], indexed(path+".containers", i))
	}
}

// initContainer refuses what only a container that stays can have.
func (p *problems) initContainer(c *corev1.Container, path string) {
	if IsSidecar(c) {
		return
	}
	const hint = "it runs to its end; with restartPolicy: Always it is a sidecar, which may have one"
	for name, set := range map[string]bool{
		"lifecycle": c.Lifecycle != nil, "startupProbe": c.StartupProbe != nil,
		"readinessProbe": c.ReadinessProbe != nil, "livenessProbe": c.LivenessProbe != nil,
	} {
		if set {
			p.hint(path+"."+name, hint, "an init container has none")
		}
	}
}

func (p *problems) container(c *corev1.Container, path string) {
	if c.Name == "" {
		p.add(path+".name", "is missing")
	} else {
		p.each(path+".name", c.Name, validation.IsDNS1123Label(c.Name))
	}
	if c.Image == "" {
		p.add(path+".image", "is missing")
	} else if err := ValidImage(c.Image); err != nil {
		p.add(path+".image", "%q: %v", clip(c.Image), err)
	}
	switch c.ImagePullPolicy {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		p.add(path+".imagePullPolicy", "%q: want Always, IfNotPresent or Never", clip(string(c.ImagePullPolicy)))
	}
	p.argv(c.Command, path+".command")
	p.argv(c.Args, path+".args")
	if c.WorkingDir != "" && (c.WorkingDir[0] != '/' || strings.ContainsRune(c.WorkingDir, 0)) {
		p.add(path+".workingDir", "%q: want an absolute path", clip(c.WorkingDir))
	}
	p.ports(c.Ports, path+".ports")
	p.env(c.Env, path+".env")
	p.envFrom(c.EnvFrom, path+".envFrom")
	p.resources(&c.Resources, path+".resources")
	if c.SecurityContext != nil {
		p.security(c.SecurityContext, path+".securityContext")
	}
	if c.Lifecycle != nil {
		p.lifecycle(c, path+".lifecycle")
	}
	p.ending(c, path)
	for _, probe := range []struct {
		name string
		p    *corev1.Probe
	}{{"startupProbe", c.StartupProbe}, {"readinessProbe", c.ReadinessProbe}, {"livenessProbe", c.LivenessProbe}} {
		if probe.p != nil {
			p.probe(probe.p, c, path, probe.name)
		}
	}
}

func (p *problems) argv(args []string, path string) {
	for i, a := range args {
		if strings.ContainsRune(a, 0) {
			p.add(indexed(path, i), "holds a NUL character")
		}
	}
}

func (p *problems) ports(ports []corev1.ContainerPort, path string) {
	names := make(map[string]bool)
	for i, port := range ports {
		at := indexed(path, i)
		p.between(at+".containerPort", int64(port.ContainerPort), 1, 65535)
		switch port.Protocol {
		case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
		default:
			p.add(at+".protocol", "%q: want TCP, UDP or SCTP", clip(string(port.Protocol)))
		}
		if port.Name == "" {
			continue
		}
		p.each(at+".name", port.Name, validation.IsValidPortName(port.Name))
		if names[port.Name] {
			p.add(at+".name", "%q is the name of two ports", clip(port.Name))
		}
		names[port.Name] = true
	}
}

func (p *problems) env(env []corev1.EnvVar, path string) {
	for i := range env {
		e, at := &env[i], indexed(path, i)
		if e.Name == "" {
			p.add(at+".name", "is missing")
		} else {
			p.each(at+".name", e.Name, validation.IsRelaxedEnvVarName(e.Name))
		}
		if strings.ContainsRune(e.Value, 0) {
			p.add(at+".value", "holds a NUL character")
		}
		switch {
		case e.ValueFrom == nil:
		case e.Value != "":
			p.add(at+".valueFrom", "there is a value already")
		default:
			p.valueFrom(nil, e.ValueFrom, at+".valueFrom")
		}
	}
}

// fieldPaths are the fields of its own Pod that a variable may hold, beside
// single labels and annotations.
var fieldPaths = []string{
	"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
	"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
}

func (p *problems) fieldRef(ref *corev1.ObjectFieldSelector, path string) {
	if ref.APIVersion != "v1" {
		p.add(path+".apiVersion", "%q: want v1", clip(ref.APIVersion))
	}
	if slices.Contains(fieldPaths, ref.FieldPath) {
		return
	}
	for _, of := range []string{"metadata.labels['", "metadata.annotations['"} {
		if key, ok := strings.CutPrefix(ref.FieldPath, of); ok {
			if key, ok = strings.CutSuffix(key, "']"); ok && len(validation.IsQualifiedName(key)) == 0 {
				return
			}
		}
	}
	hint := "these can be: " + strings.Join(fieldPaths, ", ") + ", metadata.labels['KEY'], metadata.annotations['KEY']"
	if near := nearest(ref.FieldPath, fieldPaths); near != "" {
		hint = "did you mean " + near + "?"
	}
	p.hint(path+".fieldPath", hint, "%q cannot be passed to a container", clip(ref.FieldPath))
}

// The least memory in which a container starts, and the most of anything that
// is no slip of the pen.
var (
	leastMemory = resource.MustParse("6Mi")
	mostCPU     = resource.MustParse("100k")
	mostMemory  = resource.MustParse("1Pi")
)

func (p *problems) resources(r *corev1.ResourceRequirements, path string) {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		request, requested := r.Requests[name]
		limit, limited := r.Limits[name]
		p.quantity(path+".requests."+string(name), name, request)
		if !limited {
			continue
		}
		at := path + ".limits." + string(name)
		if p.quantity(at, name, limit) {
			switch {
			case limit.IsZero():
				p.add(at, "is 0: nothing could run; remove it if there is no limit")
			case name == corev1.ResourceMemory && limit.Cmp(leastMemory) < 0:
				p.hint(at, "a plain number counts bytes; write 512Mi or 1Gi", "%s is less than %s, in which nothing starts", limit.String(), leastMemory.String())
			}
		}
		if requested && request.Cmp(limit) > 0 {
			p.add(path+".requests."+string(name), "%s is more than the limit, %s", request.String(), limit.String())
		}
	}
}

func (p *problems) quantity(path string, name corev1.ResourceName, q resource.Quantity) bool {
	most := mostCPU
	if name != corev1.ResourceCPU {
		most = mostMemory
	}
	switch {
	case q.Sign() < 0:
		p.add(path, "%s is less than 0", q.String())
	case q.Cmp(most) > 0:
		p.add(path, "%s is more than %s", q.String(), most.String())
	default:
		return true
	}
	return false
}

func (p *problems) podSecurity(s *corev1.PodSecurityContext, path string) {
	p.ids(s.RunAsUser, s.RunAsGroup, path)
	for i, g := range s.SupplementalGroups {
		p.between(indexed(path+".supplementalGroups", i), g, 0, maxID)
	}
	p.seccomp(s.SeccompProfile, path+".seccompProfile")
}

// sysctls are the kernel's settings that belong to a Pod's own namespaces and can
// harm nobody else: those that Kubernetes calls safe.
var sysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}

// SafeSysctls lists the kernel's settings that a Pod may make.
func SafeSysctls() []string { return slices.Clone(sysctls) }

func (p *problems) sysctls(s *corev1.PodSpec, path string) {
	seen := map[string]bool{}
	for i, ctl := range s.SecurityContext.Sysctls {
		at := indexed(path, i)
		name := strings.ReplaceAll(ctl.Name, "/", ".")
		switch {
		case !slices.Contains(sysctls, name):
			p.hint(at+".name", "a Pod may set "+strings.Join(sysctls, ", "), "%q is no setting of a Pod's own", clip(ctl.Name))
		case seen[name]:
			p.add(at+".name", "%q is set twice", clip(ctl.Name))
		case s.HostNetwork && strings.HasPrefix(name, "net."):
			p.add(at+".name", "%q would be its node's, as hostNetwork is set", clip(ctl.Name))
		case s.HostIPC && strings.HasPrefix(name, "kernel.shm"):
			p.add(at+".name", "%q would be its node's, as hostIPC is set", clip(ctl.Name))
		}
		seen[name] = true
		if ctl.Value == "" || len(ctl.Value) > 256 || strings.ContainsAny(ctl.Value, "\n\x00") {
			p.add(at+".value", "%q: want one line of at most 256 characters", clip(ctl.Value))
		}
	}
}

const maxAliases = 256

func (p *problems) hostAliases(list []corev1.HostAlias, path string) {
	if len(list) > maxAliases {
		p.add(path, "more than %d", maxAliases)
		return
	}
	for i, a := range list {
		at := indexed(path, i)
		if _, err := netip.ParseAddr(a.IP); err != nil || strings.Contains(a.IP, "%") {
			p.add(at+".ip", "%q is no address", clip(a.IP))
		}
		for j, name := range a.Hostnames {
			p.each(indexed(at+".hostnames", j), name, validation.IsDNS1123Subdomain(name))
		}
	}
}

func (p *problems) ids(user, group *int64, path string) {
	if user != nil {
		p.between(path+".runAsUser", *user, 0, maxID)
	}
	if group != nil {
		p.between(path+".runAsGroup", *group, 0, maxID)
	}
}

func (p *problems) seccomp(s *corev1.SeccompProfile, path string) {
	if s == nil {
		return
	}
	at := path + ".localhostProfile"
	switch s.Type {
	case corev1.SeccompProfileTypeLocalhost:
		if s.LocalhostProfile == nil || *s.LocalhostProfile == "" {
			p.hint(at, "name a file of the node's folder of profiles, /etc/skein/seccomp unless its agent was told another", "is missing")
			return
		}
		p.localPath(*s.LocalhostProfile, at)
		return
	case corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined:
	default:
		p.add(path+".type", "%q: want RuntimeDefault, Localhost or Unconfined", clip(string(s.Type)))
	}
	if s.LocalhostProfile != nil {
		p.add(at, "belongs to the type Localhost")
	}
}

// maxLocalPath bounds the path of a file that a node has, in bytes.
const maxLocalPath = 1024

func (p *problems) localPath(name, path string) {
	switch {
	case strings.HasPrefix(name, "/"), slices.Contains(strings.Split(name, "/"), ".."):
		p.add(path, "%q: want a path below the node's folder of profiles", clip(name))
	case len(name) > maxLocalPath || strings.ContainsAny(name, "\x00\n"):
		p.add(path, "%q: want one line of at most %d bytes", clip(name), maxLocalPath)
	}
}

// capabilities are those of Linux, without CAP_.
var capabilities = strings.Fields(`AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN
	DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE
	MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN
	SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG
	WAKE_ALARM ALL`)

func (p *problems) security(s *corev1.SecurityContext, path string) {
	p.ids(s.RunAsUser, s.RunAsGroup, path)
	p.seccomp(s.SeccompProfile, path+".seccompProfile")
	if s.Privileged != nil && *s.Privileged && s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		p.add(path+".allowPrivilegeEscalation", "cannot be false of a privileged container")
	}
	if s.Capabilities == nil {
		return
	}
	p.capabilities(s.Capabilities.Add, path+".capabilities.add")
	p.capabilities(s.Capabilities.Drop, path+".capabilities.drop")
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation && slices.Contains(s.Capabilities.Add, "SYS_ADMIN") {
		p.add(path+".allowPrivilegeEscalation", "cannot be false with the capability SYS_ADMIN")
	}
}

func (p *problems) capabilities(list []corev1.Capability, path string) {
	for i, c := range list {
		p.capability(string(c), indexed(path, i))
	}
}

func (p *problems) capability(name, path string) {
	if slices.Contains(capabilities, name) {
		return
	}
	bare := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	hint := "capabilities are written like NET_ADMIN"
	if near := nearest(bare, capabilities); near != "" {
		hint = fmt.Sprintf("write %s", near)
	}
	p.hint(path, hint, "%q is no capability", clip(name))
}

// nonRoot finds the contradiction that would only show when the container is to
// start.
func (p *problems) nonRoot(s *corev1.PodSpec, c *corev1.Container, path string) {
	var user *int64
	var nonRoot *bool
	where := path[:strings.LastIndexByte(path, '.')] + ".securityContext"
	if s.SecurityContext != nil {
		user, nonRoot = s.SecurityContext.RunAsUser, s.SecurityContext.RunAsNonRoot
	}
	if own := c.SecurityContext; own != nil {
		if own.RunAsUser != nil {
			user, where = own.RunAsUser, path+".securityContext"
		}
		if own.RunAsNonRoot != nil {
			nonRoot = own.RunAsNonRoot
		}
	}
	if nonRoot != nil && *nonRoot && user != nil && *user == 0 {
		p.add(where+".runAsUser", "is 0, which is root, but runAsNonRoot is set")
	}
}
