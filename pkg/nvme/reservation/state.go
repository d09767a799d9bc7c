// Package reservation is the state of one namespace's reservations and the
// rules of NVM Express Base Specification 2.0, 8.19: pure functions of a State,
// without lock, clock or goroutine. A State belongs to whoever calls it, one
// call at a time.
//
// Encode and Decode keep a State over a restart (persist through power loss).
// The format is JSON, frozen by its version:
//
//	{"version":1,"generation":3,"type":1,"holder":"<host>","persist":true,
//	 "registrants":[{"host":"<32 hex digits>","key":12}]}
//
// A State without persist is not worth keeping: it ends with the controllers.
package reservation

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/nvme"
)

// MaxRegistrants bounds the hosts registered with one namespace.
const MaxRegistrants = 64

const formatVersion = 1

// Registrant is a host that has registered a key.
type Registrant struct {
	Host nvme.UUID
	Key  uint64
}

// State is a namespace's reservations. Zero is none.
type State struct {
	Generation  uint32
	Type        nvme.ReservationType // 0 is no reservation
	Holder      nvme.UUID            // of types that have one
	Persist     bool
	Registrants []Registrant
}

// Notice tells a host what another host's command has done to it.
type Notice struct {
	Host nvme.UUID
	What nvme.ReservationNotice
}

// Access is what a command does to a namespace.
type Access uint8

// The accesses: the specification's read and write command groups.
const (
	Read Access = iota + 1
	Write
)

// Allows reports whether a host's command may be executed.
func (s *State) Allows(host nvme.UUID, a Access) bool {
	switch s.Type {
	case 0:
		return true
	case nvme.WriteExclusive, nvme.WriteExclusiveRegOnly, nvme.WriteExclusiveAllRegs:
		if a == Read {
			return true
		}
	}
	if s.Type == nvme.WriteExclusive || s.Type == nvme.ExclusiveAccess {
		return host == s.Holder
	}
	return s.find(host) >= 0
}

func (s *State) find(host nvme.UUID) int {
	return slices.IndexFunc(s.Registrants, func(r Registrant) bool { return r.Host == host })
}

// allRegistrants says that every registrant holds the reservation.
func (s *State) allRegistrants() bool {
	return s.Type == nvme.WriteExclusiveAllRegs || s.Type == nvme.ExclusiveAccessAllRegs
}

// shared says that registrants who do not hold the reservation rely on it.
func (s *State) shared() bool { return s.Type >= nvme.WriteExclusiveRegOnly }

// Holds reports whether the host holds the reservation.
func (s *State) Holds(host nvme.UUID) bool {
	return s.Type != 0 && (s.allRegistrants() && s.find(host) >= 0 || !s.allRegistrants() && s.Holder == host)
}

// Command is a reservation command of a host.
type Command struct {
	Host   nvme.UUID
	Params nvme.ReservationParams
	Keys   nvme.ReservationKeys
	// CanPersist says that Encode's result will be kept.
	CanPersist bool
}

const (
	conflict = nvme.ReservationConflict | nvme.DNR
	invalid  = nvme.InvalidField | nvme.DNR
)

// Register runs a Reservation Register. On a failed status nothing has changed.
func (s *State) Register(c Command) ([]Notice, nvme.Status) {
	persist := s.Persist
	switch c.Params.Persist {
	case nvme.PersistNoChange:
	case nvme.PersistOff:
		persist = false
	case nvme.PersistOn:
		if !c.CanPersist {
			return nil, invalid
		}
		persist = true
	default:
		return nil, invalid
	}
	notices, st := s.register(c)
	if st.OK() {
		s.Persist = persist
	}
	return notices, st
}

func (s *State) register(c Command) ([]Notice, nvme.Status) {
	i := s.find(c.Host)
	switch c.Params.Action {
	case nvme.ReservationRegister:
		switch {
		case i >= 0 && s.Registrants[i].Key != c.Keys.Other:
			return nil, conflict
		case i >= 0: // again
		case len(s.Registrants) >= MaxRegistrants:
			return nil, nvme.InternalError | nvme.DNR
		}
		if i < 0 {
			s.Registrants = append(s.Registrants, Registrant{c.Host, c.Keys.Other})
		}
	case nvme.ReservationUnregister:
		if !s.matches(i, c) {
			return nil, conflict
		}
		s.Generation++
		return s.unregister(c.Host, c.Host), nvme.Success
	case nvme.ReservationReplace:
		if !s.matches(i, c) {
			return nil, conflict
		}
		s.Registrants[i].Key = c.Keys.Other
	default:
		return nil, invalid
	}
	s.Generation++
	return nil, nvme.Success
}

// matches holds the command's key against the registrant's.
func (s *State) matches(i int, c Command) bool {
	return i >= 0 && (c.Params.IgnoreKey || s.Registrants[i].Key == c.Keys.Current)
}

// unregister removes a host, and the reservation if nobody holds it any more;
// the others that relied on it are told, but by is not.
func (s *State) unregister(host, by nvme.UUID) []Notice {
	held := s.Holds(host)
	i := s.find(host)
	s.Registrants = slices.Delete(s.Registrants, i, i+1)
	if !held || s.allRegistrants() && len(s.Registrants) > 0 {
		return nil
	}
	return s.release(by)
}

// release ends the reservation.
func (s *State) release(by nvme.UUID) []Notice {
	tell := s.shared()
	s.Type, s.Holder = 0, nvme.UUID{}
	if !tell {
		return nil
	}
	return s.others(by, nvme.ReservationReleased)
}

func (s *State) others(by nvme.UUID, what nvme.ReservationNotice) (out []Notice) {
	for _, r := range s.Registrants {
		if r.Host != by {
			out = append(out, Notice{r.Host, what})
		}
	}
	return out
}

// Acquire runs a Reservation Acquire.
func (s *State) Acquire(c Command) ([]Notice, nvme.Status) {
	t := c.Params.Type
	if c.Params.IgnoreKey || t < nvme.WriteExclusive || t > nvme.ExclusiveAccessAllRegs {
		return nil, invalid
	}
	i := s.find(c.Host)
	if !s.matches(i, c) {
		return nil, conflict
	}
	switch c.Params.Action {
	case nvme.ReservationAcquire:
		if s.Type != 0 && (s.Type != t || !s.Holds(c.Host)) {
			return nil, conflict
		}
		s.Type, s.Holder = t, c.Host
		return nil, nvme.Success
	case nvme.ReservationPreempt, nvme.ReservationPreemptAbort:
		return s.preempt(c)
	}
	return nil, invalid
}

// preempt takes registrations, and the reservation if one of them holds it.
func (s *State) preempt(c Command) ([]Notice, nvme.Status) {
	key := c.Keys.Other
	everyone := s.allRegistrants() && key == 0
	if key == 0 && !s.allRegistrants() {
		return nil, invalid
	}
	// A holder alone: it is preempted when its key is named, and keeps its
	// reservation when only others' keys are.
	holder := s.find(s.Holder)
	takes := everyone || s.Type != 0 && !s.allRegistrants() && holder >= 0 && s.Registrants[holder].Key == key
	var gone []nvme.UUID
	named := false
	for _, r := range s.Registrants {
		if everyone || r.Key == key {
			named = true
			if r.Host != c.Host {
				gone = append(gone, r.Host)
			}
		}
	}
	if !named {
		return nil, conflict
	}
	was, tell := s.Type, s.shared()
	var notices []Notice
	for _, h := range gone {
		i := s.find(h)
		s.Registrants = slices.Delete(s.Registrants, i, i+1)
		notices = append(notices, Notice{h, nvme.RegistrationPreempted})
	}
	if takes {
		s.Type, s.Holder = c.Params.Type, c.Host
		if tell && was != s.Type {
			notices = append(notices, s.others(c.Host, nvme.ReservationReleased)...)
		}
	}
	s.Generation++
	return notices, nvme.Success
}

// Release runs a Reservation Release.
func (s *State) Release(c Command) ([]Notice, nvme.Status) {
	if c.Params.IgnoreKey {
		return nil, invalid
	}
	if !s.matches(s.find(c.Host), c) {
		return nil, conflict
	}
	switch c.Params.Action {
	case nvme.ReservationRelease:
		switch {
		case !s.Holds(c.Host):
			return nil, nvme.Success // nothing of its own to release
		case c.Params.Type != s.Type:
			return nil, invalid
		}
		return s.release(c.Host), nvme.Success
	case nvme.ReservationClear:
		notices := s.others(c.Host, nvme.ReservationPreempted)
		s.Generation++
		s.Type, s.Holder, s.Registrants = 0, nvme.UUID{}, nil
		return notices, nvme.Success
	}
	return nil, invalid
}

// Report lists the registrants; controllers names those of a host that are
// connected.
func (s *State) Report(controllers func(nvme.UUID) []nvme.CNTLID) nvme.ReservationReport {
	out := nvme.ReservationReport{Generation: s.Generation, Type: s.Type, Persist: s.Persist}
	for _, r := range s.Registrants {
		ids := controllers(r.Host)
		if len(ids) == 0 {
			ids = []nvme.CNTLID{nvme.CNTLIDDynamic}
		}
		for _, id := range ids {
			out.Controllers = append(out.Controllers, nvme.RegisteredController{
				CNTLID: id, Holder: s.Holds(r.Host), Key: r.Key, Host: r.Host,
			})
		}
	}
	return out
}

// Clone is a copy to try a command on.
func (s *State) Clone() *State {
	c := *s
	c.Registrants = slices.Clone(s.Registrants)
	return &c
}

// ErrFormat says that kept bytes are not a State.
var ErrFormat = errors.New("not a reservation state of a version known here")

type record struct {
	Version     int                  `json:"version"`
	Generation  uint32               `json:"generation"`
	Type        nvme.ReservationType `json:"type"`
	Holder      string               `json:"holder,omitempty"`
	Persist     bool                 `json:"persist"`
	Registrants []recordRegistrant   `json:"registrants"`
}

type recordRegistrant struct {
	Host string `json:"host"`
	Key  uint64 `json:"key"`
}

// Encode is the State to keep; nil says that there is nothing to.
func (s *State) Encode() []byte {
	if !s.Persist {
		return nil
	}
	r := record{Version: formatVersion, Generation: s.Generation, Type: s.Type, Persist: true}
	if !s.Holder.IsZero() {
		r.Holder = hex.EncodeToString(s.Holder[:])
	}
	for _, x := range s.Registrants {
		r.Registrants = append(r.Registrants, recordRegistrant{hex.EncodeToString(x.Host[:]), x.Key})
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("reservation: encode: %v", err)) // strings and numbers only
	}
	return b
}

// Decode reads what Encode made; nothing is no reservations.
func Decode(b []byte) (*State, error) {
	if len(b) == 0 {
		return &State{}, nil
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if r.Version != formatVersion || r.Type > nvme.ExclusiveAccessAllRegs || len(r.Registrants) > MaxRegistrants {
		return nil, fmt.Errorf("%w: version %d, type %d, %d registrants", ErrFormat, r.Version, r.Type, len(r.Registrants))
	}
	s := &State{Generation: r.Generation, Type: r.Type, Persist: r.Persist}
	var err error
	if s.Holder, err = parseHost(r.Holder); err != nil {
		return nil, err
	}
	for _, x := range r.Registrants {
		h, err := parseHost(x.Host)
		if err != nil || h.IsZero() || s.find(h) >= 0 {
			return nil, fmt.Errorf("%w: registrant %q", ErrFormat, x.Host)
		}
		s.Registrants = append(s.Registrants, Registrant{h, x.Key})
	}
	if s.Type != 0 && (len(s.Registrants) == 0 || !s.allRegistrants() && s.find(s.Holder) < 0) {
		return nil, fmt.Errorf("%w: the holder is no registrant", ErrFormat)
	}
	return s, nil
}

func parseHost(text string) (u nvme.UUID, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 0 && len(b) != len(u) {
		return u, fmt.Errorf("%w: host %q", ErrFormat, text)
	}
	copy(u[:], b)
	return u, nil
}
