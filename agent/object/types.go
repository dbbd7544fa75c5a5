package object

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Revision is one version of a Deployment's template, which never changes.
// It owns the Pods that were made from it.
type Revision struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              RevisionSpec   `json:"spec"`
	Status            RevisionStatus `json:"status,omitzero"`
}

// RevisionSpec is what a Revision's Pods are made of.
type RevisionSpec struct {
	// Number counts a Deployment's revisions from 1. Going back to an old
	// template gives it a new number.
	Number   int64                  `json:"number"`
	Template corev1.PodTemplateSpec `json:"template"`
}

// RevisionStatus counts a Revision's Pods.
type RevisionStatus struct {
	Replicas          int32 `json:"replicas,omitempty"`
	ReadyReplicas     int32 `json:"readyReplicas,omitempty"`
	AvailableReplicas int32 `json:"availableReplicas,omitempty"`
}

// An Image is one image that some node can give to others. It is named by
// ImageName.
type Image struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              ImageSpec `json:"spec"`
}

// ImageSpec says what a reference stands for in this cluster.
type ImageSpec struct {
	Reference string `json:"reference"` // "skein/demo:v1"
	Digest    string `json:"digest"`    // of the manifest or index, "sha256:…"
	MediaType string `json:"mediaType,omitempty"`
	Size      int64  `json:"size,omitempty"` // bytes of all its blobs
	// Layers are those blobs, as far as somebody had it: none where nobody has.
	Layers []ImageLayer `json:"layers,omitempty"`
	// Registry tells that the reference was resolved at its registry, where it may
	// come to mean something else.
	Registry bool `json:"registry,omitempty"`
}

// An ImageLayer is a blob that an image is made of, and others may be too.
type ImageLayer struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"` // bytes
}

// MaxLayers bounds how many layers of an image are told.
const MaxLayers = 128

// A Token admits machines or people. The secret itself is shown once and never
// stored. Its name is the token's id.
type Token struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              TokenSpec `json:"spec"`
}

// TokenSpec says what a Token is good for.
type TokenSpec struct {
	Hash        string       `json:"hash"`              // of the secret
	Role        string       `json:"role,omitempty"`    // view, edit, admin; empty: to join with
	Expires     *metav1.Time `json:"expires,omitempty"` // nil: never
	Uses        int32        `json:"uses,omitempty"`    // how many machines may join with it; 0: any number
	Used        int32        `json:"used,omitempty"`    // how many have
	Description string       `json:"description,omitempty"`
}

// A Keyring holds the keys that seal gossip. There is one, named KeyringName.
type Keyring struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              KeyringSpec `json:"spec"`
}

// KeyringSpec lists the keys: the first seals, all of them open.
type KeyringSpec struct {
	Keys []SealKey `json:"keys"`
}

// A SealKey is one key of 32 bytes.
type SealKey struct {
	Key     []byte      `json:"key"`
	Created metav1.Time `json:"created,omitzero"`
}

// An Authority is the cluster's own certificate authority. There is one, named
// AuthorityName. Its private key is sealed with a key that only voters hold.
type Authority struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              AuthoritySpec `json:"spec"`
}

// AuthoritySpec is a certificate and its sealed private key.
type AuthoritySpec struct {
	Certificate []byte `json:"certificate"` // DER
	SealedKey   []byte `json:"sealedKey"`
}

// The names of the objects of which there is one.
const (
	KeyringName   = "gossip"
	AuthorityName = "cluster"
)
