package object

import "slices"

// These lists say of every field of every kind that people may write whether it
// is supported. They are kept by hand: TestEveryField walks Kubernetes' types
// and fails for a field that is missing here, or that Kubernetes does not have.
// docs/kubernetes.md is made from them.

var metadataRules = []rule{
	takes("name", "namespace", "labels", "annotations"),
	sets(
		"uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
		"deletionGracePeriodSeconds", "ownerReferences", "managedFields", "selfLink",
	),
	refuses("give the object a name, or let a Deployment name its Pods", "generateName"),
	later("deletion waits for nobody but the Pod's own containers", "finalizers"),
}

var templateMetadataRules = []rule{
	takes("labels", "annotations"),
	sets("creationTimestamp", "name"), // Pods are named after their Revision, whatever this says
	refuses("Pods are in the namespace of their Deployment", "namespace"),
	refuses(
		"a template takes labels and annotations; the rest is set on each Pod",
		"generateName", "uid", "resourceVersion", "generation", "deletionTimestamp", "deletionGracePeriodSeconds",
		"ownerReferences", "managedFields", "selfLink", "finalizers",
	),
}

var deploymentRules = []rule{
	takes(
		"spec.replicas", "spec.revisionHistoryLimit", "spec.minReadySeconds", "spec.paused",
		"spec.progressDeadlineSeconds", "spec.strategy.type",
		"spec.strategy.rollingUpdate.maxSurge", "spec.strategy.rollingUpdate.maxUnavailable",
		"spec.selector.matchLabels", "spec.selector.matchExpressions.key",
		"spec.selector.matchExpressions.operator", "spec.selector.matchExpressions.values",
	),
	sets("status"),
}

var nodeRules = []rule{
	takes("spec.unschedulable"),
	sets("status", "spec.podCIDR", "spec.podCIDRs", "spec.providerID"),
	later("\"skein node cordon\" keeps new Pods away; labels and nodeSelector choose nodes", "spec.taints"),
	refuses("Pods do not preempt each other", "spec.podPreemptionPolicy"),
	refuses("Kubernetes itself has given it up", "spec.externalID", "spec.configSource"),
}

const (
	hintSpread  = "Pods of one Deployment are spread over zones and nodes by themselves; nodeSelector chooses nodes"
	hintOwnUser = "set runAsUser, runAsGroup and supplementalGroups"
	hintNoAPI   = "Pods have no access to the cluster's API: remove it"
	hintRequest = "set requests and limits of each container"
)

// podRules are those of a Pod's spec, also in a template.
var podRules = append([]rule{
	takes(
		"restartPolicy", "terminationGracePeriodSeconds", "activeDeadlineSeconds", "nodeSelector", "nodeName", "hostNetwork", "hostname",
		"securityContext.runAsUser", "securityContext.runAsGroup", "securityContext.runAsNonRoot",
		"securityContext.supplementalGroups", "securityContext.seccompProfile.type", "securityContext.seccompProfile.localhostProfile",
	),
	refuses("\"skein exec\" runs a program in a running container", "ephemeralContainers"),
	only("dnsPolicy", []string{"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"}, "these are Kubernetes' own"),
	takes("dnsConfig.nameservers", "dnsConfig.searches", "dnsConfig.options.name", "dnsConfig.options.value"),
	takes("hostAliases.ip", "hostAliases.hostnames"),
	takes("subdomain", "setHostnameAsFQDN"),
	refuses("hostname sets the host name", "hostnameOverride"),
	only("serviceAccountName", []string{"default"}, hintNoAPI),
	only("serviceAccount", []string{"default"}, hintNoAPI),
	only("automountServiceAccountToken", []string{"false"}, hintNoAPI),
	only("enableServiceLinks", []string{"false"}, "a container gets no variables of Services: they are found by name"),
	takes("hostPID", "hostIPC", "shareProcessNamespace"),
	takes("hostUsers"),
	takes("imagePullSecrets.name"),
	later(hintSpread, "affinity", "topologySpreadConstraints"),
	later("nodes have no taints yet, so it would do nothing: remove it", "tolerations"),
	only("schedulerName", []string{"default-scheduler"}, "there is one scheduler, inside the leader"),
	only("priority", []string{"0"}, "all Pods are equal"),
	later("all Pods are equal until then", "priorityClassName"),
	only("preemptionPolicy", []string{"PreemptLowerPriority", "Never"}, "all Pods are equal"),
	later("until then hold back the Deployment by replicas: 0", "schedulingGates"),
	later("use a readinessProbe", "readinessGates"),
	refuses("containers run under runc", "runtimeClassName", "overhead"),
	only("os.name", []string{"linux"}, "containers run on Linux"),
	later(hintRequest, "resources.limits", "resources.requests"),
	refuses(hintRequest, "resources.claims"),
	refuses("mount a hostPath volume of type CharDevice or BlockDevice", "resourceClaims"),
	refuses("Pods are placed one by one", "schedulingGroup"),
	refuses("nothing is asked before a Pod is moved", "evictionResponders"),
	takes("securityContext.fsGroup", "securityContext.fsGroupChangePolicy"),
	takes("securityContext.sysctls.name", "securityContext.sysctls.value"),
	only("securityContext.supplementalGroupsPolicy", []string{"Merge"}, hintOwnUser),
	only("securityContext.appArmorProfile.type", []string{"Unconfined"}, "AppArmor confines no container yet; seccompProfile and capabilities do"),
	later("seccompProfile and capabilities confine the container", "securityContext.appArmorProfile.localhostProfile"),
	refuses("seccompProfile and capabilities confine the container", "securityContext.seLinuxOptions", "securityContext.seLinuxChangePolicy"),
	refuses("containers run on Linux", "securityContext.windowsOptions"),
}, slices.Concat(
	volumeRules,
	within("containers", containerRules),
	within("initContainers", containerRules),
)...)

// containerRules are those of one container.
var containerRules = append([]rule{
	takes(
		"name", "image", "command", "args", "workingDir", "imagePullPolicy",
		"ports.name", "ports.containerPort", "ports.protocol", "ports.hostPort", "ports.hostIP",
		"env.name", "env.value", "env.valueFrom.fieldRef.fieldPath", "env.valueFrom.fieldRef.apiVersion",
		"resources.limits.cpu", "resources.limits.memory", "resources.requests.cpu", "resources.requests.memory",
		"securityContext.runAsUser", "securityContext.runAsGroup", "securityContext.runAsNonRoot",
		"securityContext.readOnlyRootFilesystem", "securityContext.allowPrivilegeEscalation",
		"securityContext.capabilities.add", "securityContext.capabilities.drop", "securityContext.seccompProfile.type",
		"stdin", "stdinOnce", "tty",
	),
	takes(
		"envFrom.prefix", "envFrom.configMapRef.name", "envFrom.configMapRef.optional", "envFrom.secretRef.name", "envFrom.secretRef.optional",
		"env.valueFrom.configMapKeyRef.name", "env.valueFrom.configMapKeyRef.key", "env.valueFrom.configMapKeyRef.optional",
		"env.valueFrom.secretKeyRef.name", "env.valueFrom.secretKeyRef.key", "env.valueFrom.secretKeyRef.optional",
		"env.valueFrom.resourceFieldRef.containerName", "env.valueFrom.resourceFieldRef.resource", "env.valueFrom.resourceFieldRef.divisor",
		"volumeMounts.name", "volumeMounts.mountPath", "volumeMounts.subPath", "volumeMounts.subPathExpr", "volumeMounts.readOnly",
		"volumeMounts.recursiveReadOnly",
	),
	later("readOnly and recursiveReadOnly say what may be done", "volumeMounts.bindMountOptions"),
	only("volumeMounts.mountPropagation", []string{"None", "HostToContainer"}, "containers mount nothing on their machine"),
	refuses("read the file in the container's command", "env.valueFrom.fileKeyRef"),
	refuses("mount a hostPath volume of type BlockDevice", "volumeDevices"),
	takes("resources.limits.ephemeral-storage", "resources.requests.ephemeral-storage"),
	refuses("cpu, memory and ephemeral-storage are what can be asked for", "resources.limits.*", "resources.requests.*"),
	refuses("mount a hostPath volume of type CharDevice or BlockDevice", "resources.claims"),
	refuses("changed resources make a new Revision", "resizePolicy"),
	takes(
		"restartPolicy", "restartPolicyRules.exitCodes.operator", "restartPolicyRules.exitCodes.values",
		"terminationMessagePath", "terminationMessagePolicy", "lifecycle.stopSignal",
	),
	only("restartPolicyRules.action", []string{"Restart"}, "a rule restarts its own container"),
	takes("securityContext.privileged", "securityContext.seccompProfile.localhostProfile"),
	only("securityContext.procMount", []string{"Default"}, "parts of /proc stay masked"),
	only("securityContext.appArmorProfile.type", []string{"Unconfined"}, "AppArmor confines no container yet; seccompProfile and capabilities do"),
	later("seccompProfile and capabilities confine the container", "securityContext.appArmorProfile.localhostProfile"),
	refuses("seccompProfile and capabilities confine the container", "securityContext.seLinuxOptions"),
	refuses("containers run on Linux", "securityContext.windowsOptions"),
}, slices.Concat(probeRules("startupProbe", "readinessProbe", "livenessProbe"), hookRules("lifecycle.postStart", "lifecycle.preStop"))...)

func hookRules(names ...string) []rule {
	var out []rule
	for _, name := range names {
		out = append(out, within(name, []rule{
			takes(
				"exec.command", "httpGet.path", "httpGet.port", "httpGet.scheme", "httpGet.httpHeaders.name",
				"httpGet.httpHeaders.value", "sleep.seconds",
			),
			refuses("a hook asks its own Pod; to reach elsewhere use exec", "httpGet.host"),
			only("httpGet.protocol", []string{"HTTP1"}, "use exec"),
			refuses("Kubernetes itself does nothing with it: use httpGet or exec", "tcpSocket"),
		})...)
	}
	return out
}

func probeRules(names ...string) []rule {
	var out []rule
	for _, name := range names {
		out = append(out, within(name, []rule{
			takes(
				"exec.command", "httpGet.path", "httpGet.port", "httpGet.scheme", "httpGet.httpHeaders.name",
				"httpGet.httpHeaders.value", "tcpSocket.port", "grpc.port", "grpc.service",
				"initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold",
			),
			refuses("a probe asks its own Pod; to look elsewhere use exec", "httpGet.host", "tcpSocket.host"),
			only("httpGet.protocol", []string{"HTTP1"}, "use tcpSocket or exec"),
			only("grpc.mode", []string{"Plaintext"}, "use tcpSocket or exec"),
			takes("terminationGracePeriodSeconds"),
		})...)
	}
	return out
}
