package node

import (
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// keysPatience is how long an image waits for a Secret that its Pod names and
// that is not here: it may be on its way, as the Pod was.
const keysPatience = 2 * time.Second

// pullKeys returns the credentials that a Pod names for its images, in docker's
// notation. again is when to ask once more, the zero time if this is all. The error
// tells what is wrong with others: as in Kubernetes an image is pulled without
// those.
func (w *worker) pullKeys(pod *corev1.Pod) (keys [][]byte, again time.Time, err error) {
	var errs []error
	missing := false
	for _, ref := range pod.Spec.ImagePullSecrets {
		kind, data, err := w.node.sources.Secret(pod.Namespace, ref.Name)
		if err != nil {
			missing = true
			errs = append(errs, err)
			continue
		}
		key, ok := map[corev1.SecretType]string{
			corev1.SecretTypeDockerConfigJson: corev1.DockerConfigJsonKey, corev1.SecretTypeDockercfg: corev1.DockerConfigKey,
		}[kind]
		if !ok {
			errs = append(errs, fmt.Errorf("Secret %q is of the type %q, want %s", ref.Name, kind, corev1.SecretTypeDockerConfigJson))
			continue
		}
		keys = append(keys, data[key])
	}
	now := time.Now()
	if !missing {
		w.keysBy = time.Time{}
	} else if w.keysBy.IsZero() {
		w.keysBy = now.Add(keysPatience)
	}
	if now.Before(w.keysBy) {
		again = w.keysBy
	}
	return keys, again, errors.Join(errs...)
}

// oneLine joins what errors say.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
