package volume

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/resources"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// Keys is what is known of the Secret that nodes prove themselves with.
type Keys struct {
	Secret types.UID // of the Secret; empty when there is none
	Owner  types.UID // of what owns it; empty when nothing does
	Good   bool      // it has keys of the right form
	// Fresh are keys to make one of, when there is none.
	Fresh dhchap.Secrets
}

// usable reports whether a target may be started with them.
func (k Keys) usable(v *v1alpha1.Volume) bool {
	return k.Secret != "" && k.Good && (k.Owner == "" || k.Owner == v.UID)
}

const (
	reasonMakingKeys = "MakingKeys"
	// afterMaking is when a Secret that was made is looked for: nothing tells.
	afterMaking = 200 * time.Millisecond
)

// keys looks at the Secret; what is in it goes no further.
func (g gatherer) keys(ctx context.Context, s *Snapshot) (err error) {
	if !s.Volume.NodesAuthenticate() {
		return nil
	}
	var secret corev1.Secret
	err = g.api.Get(ctx, client.ObjectKey{Namespace: g.namespace, Name: v1alpha1.AuthSecretName(s.Volume.Name)}, &secret)
	if apierrors.IsNotFound(err) {
		s.Keys.Fresh, err = dhchap.NewSecrets()
		return err
	}
	if err != nil {
		return err
	}
	s.Keys.Secret = secret.UID
	if owner := metav1.GetControllerOf(&secret); owner != nil {
		s.Keys.Owner = owner.UID
	}
	have := dhchap.Secrets{Host: string(secret.Data[v1alpha1.KeyDHCHAPHost]), Controller: string(secret.Data[v1alpha1.KeyDHCHAPController])}
	s.Keys.Good = have.Check() == nil
	return nil
}

// nodesAuthentication has the volume's keys be there before its target. They are
// not made anew under a node that has the volume: it could not come back.
func (p *pass) nodesAuthentication() {
	if !p.Volume.NodesAuthenticate() {
		return
	}
	name := v1alpha1.AuthSecretName(p.Volume.Name)
	what := fmt.Sprintf("Secret %s in namespace %s", name, p.settings.Namespace)
	holder := p.keysHolder()
	reason, message := "", ""
	switch {
	case p.Keys.usable(p.Volume):
		p.finding(v1alpha1.ConditionSecret, metav1.ConditionTrue, "SecretUsable", what+" has the keys that nodes prove themselves with")
		return
	case p.Keys.Secret != "" && p.Keys.Good:
		reason, message = "SecretOfAnother", fmt.Sprintf("%s belongs to something else that had the name %s: no target is started with it; delete it, and one is made for this volume", what, p.Volume.Name)
	case p.Keys.Secret != "":
		reason, message = "SecretDamaged", fmt.Sprintf("%s has no keys of the form DHHC-1 in %s and %s: no target is started with it, and no node let in; "+
			"put it back from a backup, or delete it and the pods that use the volume: new keys are made then", what, v1alpha1.KeyDHCHAPHost, v1alpha1.KeyDHCHAPController)
	case holder != "":
		reason, message = "SecretMissing", fmt.Sprintf("%s is gone, and %s has the volume open with the keys that were in it: the next target cannot start; "+
			"put it back from a backup, or delete the pods that use the volume: new keys are made then", what, holder)
	default:
		p.plan.Create = append(p.plan.Create, p.settings.AuthSecret(p.Volume, p.Keys.Fresh))
		p.finding(v1alpha1.ConditionSecret, metav1.ConditionFalse, reasonMakingKeys, what+" is being made; see the log of cask-operator if this stays")
		p.again(afterMaking)
		return
	}
	p.finding(v1alpha1.ConditionSecret, metav1.ConditionFalse, reason, message)
	p.again(retrySecret)
}

// keysHolder says which node uses the volume with keys it was given, or that
// may be given it back; empty when none does.
func (p *pass) keysHolder() string {
	d, built := p.Deployments[resources.TargetName(p.Volume.Name)]
	if !built || d.Spec.Template.Annotations[resources.AnnotationKeys] == "" {
		return "" // there have never been any
	}
	if a := p.Volume.Spec.Attachment; a != nil {
		return "node " + a.Node
	}
	if _, withdrawn := p.Volume.Annotations[v1alpha1.AnnotationFenced]; withdrawn {
		return "the node that it was withdrawn from"
	}
	return ""
}
