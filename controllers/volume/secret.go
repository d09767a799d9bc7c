package volume

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// retrySecret is how often a Secret that cannot be used is looked at again.
const retrySecret = 15 * time.Second

// secret reads the sizes of what initiators have to know; what it is nobody here
// needs.
func (g gatherer) secret(ctx context.Context, s *Snapshot) error {
	name := s.Volume.Spec.AuthenticationSecret
	if name == "" {
		return nil
	}
	var secret corev1.Secret
	if err := g.api.Get(ctx, client.ObjectKey{Namespace: g.namespace, Name: name}, &secret); err != nil {
		return client.IgnoreNotFound(err)
	}
	s.Secret = map[string]int{}
	for key, value := range secret.Data {
		s.Secret[key] = len(value)
	}
	return nil
}

// authentication finds whether initiators can prove themselves with the Secret.
func (p *pass) authentication() {
	name := p.Volume.Spec.AuthenticationSecret
	if name == "" {
		return
	}
	what := fmt.Sprintf("Secret %s in namespace %s", name, p.settings.Namespace)
	wanted := v1alpha1.KeyCHAPUser + " and " + v1alpha1.KeyCHAPSecret
	var missing, long []string
	for _, key := range []string{v1alpha1.KeyCHAPUser, v1alpha1.KeyCHAPSecret} {
		if p.Secret[key] == 0 {
			missing = append(missing, key)
		}
	}
	for _, key := range []string{v1alpha1.KeyCHAPUser, v1alpha1.KeyCHAPSecret, v1alpha1.KeyCHAPMutualUser, v1alpha1.KeyCHAPMutualSecret} {
		if p.Secret[key] > v1alpha1.MaxSecret {
			long = append(long, key)
		}
	}
	reason, message := "", ""
	switch {
	case p.Secret == nil:
		reason, message = "SecretMissing", fmt.Sprintf("%s does not exist, the target cannot start; create it with the keys %s", what, wanted)
	case len(missing) > 0:
		reason, message = "SecretIncomplete", fmt.Sprintf("%s has nothing in %s: no initiator is let in; it needs %s", what, strings.Join(missing, " and "), wanted)
	case len(long) > 0:
		reason, message = "SecretTooLong", fmt.Sprintf("%s: %s has more than %d bytes: no initiator is let in", what, strings.Join(long, " and "), v1alpha1.MaxSecret)
	default:
		p.finding(v1alpha1.ConditionSecret, metav1.ConditionTrue, "SecretUsable", what+" has what initiators prove themselves with")
		return
	}
	p.finding(v1alpha1.ConditionSecret, metav1.ConditionFalse, reason, message)
	p.again(retrySecret)
}
