package target

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cask-storage/cask/pkg/iscsi"
)

// login is the state machine of one login phase: pure, driven by step.
//
//	security (0) ── authenticated ──► operational (1) ──► full feature (3)
//
// Either stage may be left out: security when the initiator has nothing to
// prove, operational when the defaults will do.
type login struct {
	env   loginEnv
	neg   negotiation
	stage iscsi.Stage
	began bool
	steps int
	text  []byte // of PDUs with the C bit, bounded by maxText
	seen  []string

	initiator, node string
	isid            [6]byte
	cid             uint16
	auth            *Auth // nil: nothing to prove
	method          string
	chap            chap
}

// loginEnv is what a login asks the outside.
type loginEnv interface {
	// admit finds the node and asks whether the initiator may use it.
	admit(initiator, node string) iscsi.LoginStatus
	credentials(initiator, node string) (*Auth, error)
	// random fills b with unpredictable bytes.
	random(b []byte)
	alias(node string) string
	// tsih judges a login that names a session.
	tsih(h uint16) iscsi.LoginStatus
}

// loginAnswer is the response to one login request.
type loginAnswer struct {
	status  iscsi.LoginStatus
	text    iscsi.Text
	transit bool
	next    iscsi.Stage
	done    bool // the full feature phase begins
}

// loginError refuses a login.
type loginError struct {
	status iscsi.LoginStatus
	why    string
}

func (e *loginError) Error() string {
	return fmt.Sprintf("login refused with status %04xh: %s", uint16(e.status), e.why)
}

func refuse(s iscsi.LoginStatus, format string, args ...any) error {
	return &loginError{s, fmt.Sprintf(format, args...)}
}

func newLogin(env loginEnv, lim Limits) *login {
	return &login{env: env, neg: negotiation{params: defaultParams(), lim: lim}}
}

// discovery reports a session without a node.
func (l *login) discovery() bool { return l.node == "" }

// step takes one login request. After an error the connection ends, once its
// status was sent.
func (l *login) step(h *iscsi.Header, data []byte) (loginAnswer, error) {
	a, err := l.advance(h, data)
	var refused *loginError
	var failed errChap
	switch {
	case errors.As(err, &refused):
		a = loginAnswer{status: refused.status}
	case errors.As(err, &failed), errors.Is(err, iscsi.ErrBinary):
		a = loginAnswer{status: iscsi.LoginAuthFailed}
	case err != nil:
		a = loginAnswer{status: iscsi.LoginInitiatorError}
	}
	return a, err
}

func (l *login) advance(h *iscsi.Header, data []byte) (loginAnswer, error) {
	if err := l.checkHeader(h); err != nil {
		return loginAnswer{}, err
	}
	csg, nsg := h.Stages()
	transit := h.Flags()&iscsi.FlagTransit != 0
	if len(l.text)+len(data) > maxText {
		return loginAnswer{}, refuse(iscsi.LoginInvalidRequest, "more than %d bytes of text", maxText)
	}
	l.text = append(l.text, data...)
	if h.Flags()&iscsi.FlagContinue != 0 {
		return loginAnswer{}, nil
	}
	in, err := iscsi.ParseText(l.text)
	l.text = l.text[:0]
	if err != nil {
		return loginAnswer{}, err
	}
	if err := l.once(in); err != nil {
		return loginAnswer{}, err
	}
	if !l.began {
		if err := l.begin(h, in); err != nil {
			return loginAnswer{}, err
		}
		l.stage = csg
	}
	if csg != l.stage {
		return loginAnswer{}, refuse(iscsi.LoginInvalidRequest, "stage %d in stage %d", csg, l.stage)
	}
	a, ready, err := l.negotiate(in)
	if err != nil {
		return a, err
	}
	if !l.began {
		l.began = true
		if !l.discovery() {
			a.text.Add("TargetPortalGroupTag", fmt.Sprint(portalGroup))
			if alias := l.env.alias(l.node); alias != "" {
				a.text.Add("TargetAlias", alias)
			}
		}
	}
	if transit && ready {
		a.transit, a.next, a.done = true, nsg, nsg == iscsi.StageFullFeature
		l.stage = nsg
	}
	return a, nil
}

// negotiate does the work of the current stage; ready says that it may end.
func (l *login) negotiate(in iscsi.Text) (a loginAnswer, ready bool, err error) {
	if l.stage == iscsi.StageSecurity {
		a.text, ready, err = l.security(in)
		for _, p := range in { // some offer operational keys early
			if v := l.neg.answer(p.Key, p.Value); v != "" && !ofSecurity(p.Key) {
				a.text.Add(p.Key, v)
			}
		}
		return a, ready, err
	}
	if l.auth != nil && !l.chap.proven {
		return a, false, refuse(iscsi.LoginAuthFailed, "initiator %s has not proven who it is", l.initiator)
	}
	a.text = l.neg.run(in)
	return a, true, nil
}

// checkHeader validates what every login request has to hold.
func (l *login) checkHeader(h *iscsi.Header) error {
	csg, nsg := h.Stages()
	transit, more := h.Flags()&iscsi.FlagTransit != 0, h.Flags()&iscsi.FlagContinue != 0
	l.steps++
	switch {
	case l.steps > maxLoginSteps:
		return refuse(iscsi.LoginInvalidRequest, "more than %d requests", maxLoginSteps)
	case h[3] != 0: // version-min
		return refuse(iscsi.LoginBadVersion, "versions %d to %d, this is version 0", h[3], h[2])
	case csg > iscsi.StageOperational:
		return refuse(iscsi.LoginInvalidRequest, "current stage %d", csg)
	case transit && (more || nsg <= csg || nsg == 2):
		return refuse(iscsi.LoginInvalidRequest, "transit from stage %d to %d", csg, nsg)
	case l.began && (h.ISID() != l.isid || h.Uint16(iscsi.AtCID) != l.cid):
		return refuse(iscsi.LoginInvalidRequest, "ISID or CID changed during the login")
	}
	return nil
}

func ofSecurity(key string) bool { return strings.HasPrefix(key, "CHAP_") || key == "AuthMethod" }

// once refuses keys that come twice.
func (l *login) once(in iscsi.Text) error {
	for _, p := range in {
		if ofSecurity(p.Key) {
			continue // of steps of their own
		}
		if slices.Contains(l.seen, p.Key) {
			return refuse(iscsi.LoginInitiatorError, "key %q was negotiated before", p.Key)
		}
		l.seen = append(l.seen, p.Key)
	}
	return nil
}

// begin reads who wants what.
func (l *login) begin(h *iscsi.Header, in iscsi.Text) error {
	l.isid, l.cid = h.ISID(), h.Uint16(iscsi.AtCID)
	l.initiator, _ = in.Get("InitiatorName")
	if err := CheckName(l.initiator); err != nil {
		return refuse(iscsi.LoginMissing, "InitiatorName: %v", err)
	}
	kind, given := in.Get("SessionType")
	l.node, _ = in.Get("TargetName")
	switch {
	case given && kind != "Normal" && kind != "Discovery":
		return refuse(iscsi.LoginBadSessionType, "session type %q", kind)
	case kind == "Discovery":
		l.node = ""
	case l.node == "":
		return refuse(iscsi.LoginMissing, "a normal session needs a TargetName")
	}
	l.neg.discovery = l.discovery()
	if t := h.TSIH(); t != 0 {
		return refuse(l.env.tsih(t), "a second connection for session %d: MaxConnections is 1", t)
	}
	if !l.discovery() {
		if s := l.env.admit(l.initiator, l.node); s != iscsi.LoginSuccess {
			return refuse(s, "initiator %s is not to use %s", l.initiator, l.node)
		}
	}
	var err error
	if l.auth, err = l.env.credentials(l.initiator, l.node); err != nil {
		return refuse(iscsi.LoginUnavailable, "the credentials of initiator %s are not to be had: %v", l.initiator, err)
	}
	return nil
}

// security does one step of the security stage.
func (l *login) security(in iscsi.Text) (out iscsi.Text, ready bool, err error) {
	if offered, ok := in.Get("AuthMethod"); ok {
		if l.method != "" {
			return nil, false, refuse(iscsi.LoginInitiatorError, "AuthMethod was agreed on before")
		}
		want := "None"
		if l.auth != nil {
			want = "CHAP"
		}
		if pick(offered, want) == reject {
			return nil, false, refuse(iscsi.LoginAuthFailed, "authentication %q was offered, %s is needed", offered, want)
		}
		l.method = want
		out.Add("AuthMethod", want)
		// What comes with the method in one PDU is answered in the next.
		return out, l.auth == nil, nil
	}
	if l.auth == nil || l.chap.proven {
		return nil, true, nil
	}
	if l.method == "" {
		return nil, false, refuse(iscsi.LoginAuthFailed, "no authentication was offered, CHAP is needed")
	}
	return l.runChap(in)
}

func (l *login) runChap(in iscsi.Text) (out iscsi.Text, ready bool, err error) {
	l.chap.auth = l.auth
	if offered, ok := in.Get("CHAP_A"); ok && l.chap.algorithm == "" {
		random := make([]byte, 33)
		l.env.random(random)
		out, err = l.chap.choose(offered, random)
		return out, false, err
	}
	if _, ok := in.Get("CHAP_R"); ok && l.chap.algorithm != "" {
		out, err = l.chap.answer(in)
		return out, err == nil, err
	}
	return nil, false, errChap("an algorithm or a response was expected")
}
