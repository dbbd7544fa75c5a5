package object

import "slices"

const (
	hintLocal = "use emptyDir, configMap, secret, downwardAPI, projected or hostPath"
	hintUser  = "use fsGroup, which gives the files to a group"
	hintItems = "Pods have no access to the cluster's API: remove it"
)

// volumeRules are those of a Pod's volumes.
var volumeRules = slices.Concat(
	[]rule{
		takes(
			"volumes.name", "volumes.emptyDir.medium", "volumes.emptyDir.sizeLimit", "volumes.hostPath.path", "volumes.hostPath.type",
			"volumes.configMap.name", "volumes.configMap.defaultMode", "volumes.configMap.optional",
			"volumes.secret.secretName", "volumes.secret.defaultMode", "volumes.secret.optional",
			"volumes.downwardAPI.defaultMode", "volumes.projected.defaultMode",
			"volumes.projected.sources.configMap.name", "volumes.projected.sources.configMap.optional",
			"volumes.projected.sources.secret.name", "volumes.projected.sources.secret.optional",
		),
		later("until then Pods keep no data of their own: "+hintLocal, "volumes.persistentVolumeClaim", "volumes.ephemeral"),
		later(hintUser, "volumes.secret.defaultUser", "volumes.configMap.defaultUser", "volumes.downwardAPI.defaultUser", "volumes.projected.defaultUser"),
		later("anybody in the Pod can write to it", "volumes.emptyDir.mode"),
		later("until then put files into the image that runs", "volumes.image"),
		refuses(
			hintLocal, "volumes.gcePersistentDisk", "volumes.awsElasticBlockStore", "volumes.gitRepo", "volumes.nfs", "volumes.iscsi",
			"volumes.glusterfs", "volumes.rbd", "volumes.flexVolume", "volumes.cinder", "volumes.cephfs", "volumes.flocker", "volumes.fc",
			"volumes.azureFile", "volumes.vsphereVolume", "volumes.quobyte", "volumes.azureDisk", "volumes.photonPersistentDisk",
			"volumes.portworxVolume", "volumes.scaleIO", "volumes.storageos", "volumes.csi",
		),
		refuses(
			hintItems, "volumes.projected.sources.serviceAccountToken", "volumes.projected.sources.clusterTrustBundle",
			"volumes.projected.sources.podCertificate",
		),
	},
	keyRules("volumes.configMap.items", "volumes.secret.items", "volumes.projected.sources.configMap.items", "volumes.projected.sources.secret.items"),
	downwardRules("volumes.downwardAPI.items", "volumes.projected.sources.downwardAPI.items"),
)

func keyRules(paths ...string) []rule {
	var out []rule
	for _, p := range paths {
		out = append(out, within(p, []rule{takes("key", "path", "mode"), later(hintUser, "user")})...)
	}
	return out
}

func downwardRules(paths ...string) []rule {
	var out []rule
	for _, p := range paths {
		out = append(out, within(p, []rule{takes(
			"path", "mode", "fieldRef.fieldPath", "fieldRef.apiVersion",
			"resourceFieldRef.containerName", "resourceFieldRef.resource", "resourceFieldRef.divisor",
		), later(hintUser, "user")})...)
	}
	return out
}
