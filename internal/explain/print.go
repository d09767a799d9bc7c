package explain

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	corev1 "k8s.io/api/core/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/internal/members"
	"github.com/cask-storage/cask/pkg/quorum"
)

// maxEvents is how many events are shown.
const maxEvents = 8

// printer remembers the first error of writing.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// table prints rows of tab-separated cells, aligned.
func (p *printer) table(rows []string) {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, r)
	}
	t.Flush() // into memory
	for l := range strings.Lines(b.String()) {
		p.line("%s", strings.TrimRight(l, " \n"))
	}
}

// Write prints all there is to say.
func Write(w io.Writer, f *Facts) error {
	p := &printer{w: w}
	p.headline(f)
	p.findings(f)
	if f.Volume != nil {
		p.replicas(f)
		p.target(f)
		p.conditions(f)
	}
	p.events(f)
	return p.err
}

// WriteWhy prints what is wrong only.
func WriteWhy(w io.Writer, f *Facts) error {
	p := &printer{w: w}
	p.headline(f)
	p.findings(f)
	return p.err
}

func (p *printer) headline(f *Facts) {
	if f.Volume == nil {
		p.line("PersistentVolumeClaim %s/%s: %s, no Cask volume", f.Claim.Namespace, f.Claim.Name, f.Claim.Status.Phase)
		return
	}
	v := f.Volume
	p.line("Volume %s: %s", v.Name, orUnknown(v.Status.State))
	p.line("  %s, %d replicas, consistency %s%s, minVoters %d, durability %s; made %s ago",
		v.Spec.Size.String(), v.Spec.Replicas, v.Spec.Consistency, zones(v), members.Floor(v), v.Spec.Durability, f.age(v.CreationTimestamp.Time))
	switch {
	case f.Claim != nil:
		p.line("  for PersistentVolumeClaim %s/%s%s", f.Claim.Namespace, f.Claim.Name, usedBy(f.Consumers))
	case f.PV != nil:
		p.line("  PersistentVolume %s is %s; no claim uses it", f.PV.Name, f.PV.Status.Phase)
	default:
		p.line("  no PersistentVolume uses it")
	}
	if v.DeletionTimestamp == nil {
		p.line("  %s", Margin(v))
	}
}

func zones(v *v1alpha1.Volume) string {
	if v.Spec.Zones == "" {
		return ""
	}
	return " zones " + v.Spec.Zones
}

func orUnknown(s string) string {
	if s == "" {
		return "Unknown"
	}
	return s
}

func usedBy(pods []corev1.Pod) string {
	var names []string
	for _, pod := range pods {
		where := pod.Spec.NodeName
		if where == "" {
			where = "no node yet"
		}
		names = append(names, fmt.Sprintf("%s (%s)", pod.Name, where))
	}
	if len(names) == 0 {
		return ", used by no pod"
	}
	return ", used by " + strings.Join(names, ", ")
}

// Margin says what the volume can still lose.
func Margin(v *v1alpha1.Volume) string {
	voters, inSync := len(v.Status.Voters), 0
	for _, id := range v.Status.Voters {
		if members.InSync(v)(quorum.ReplicaID(id)) {
			inSync++
		}
	}
	if voters == 0 {
		return "No replica counts yet."
	}
	text := fmt.Sprintf("Level %s, %d of %d voters in sync: ", members.Quorum(v).Level, inSync, voters)
	switch spare := members.Spare(v); {
	case spare < 0:
		return text + "I/O waits."
	case spare == 0:
		return text + "I/O goes on, and may wait if one more is lost."
	default:
		return text + fmt.Sprintf("I/O goes on even if %d more are lost.", spare)
	}
}

func (p *printer) findings(f *Facts) {
	all := Findings(f)
	if len(all) == 0 {
		p.line("\nNothing is wrong.")
		return
	}
	p.line("\nWhat is wrong")
	for i, x := range all {
		p.line("  %d. %s", i+1, x.Problem)
		p.line("     -> %s", x.Next)
	}
}

func (p *printer) replicas(f *Facts) {
	if len(f.Volume.Status.Replicas) == 0 {
		return
	}
	p.line("\nReplicas")
	rows := []string{"  ID\tNODE\tZONE\tPOOL\tSTATE\tVOTER\tLEAVING\tPOD"}
	for _, r := range f.Volume.Status.Replicas {
		voter := "no"
		if members.Votes(&f.Volume.Status, r) {
			voter = "yes"
		}
		rows = append(rows, fmt.Sprintf("  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s",
			r.ID, r.Node, dash(r.Zone), r.Pool, state(r), voter, dash(r.Leaving), podName(f.replicaPod(r.ID))))
	}
	p.table(rows)
}

func podName(pod *corev1.Pod) string {
	if pod == nil {
		return "(none)"
	}
	return pod.Name
}

func (p *printer) target(f *Facts) {
	v := f.Volume
	p.line("\nTarget")
	p.line("  pod %s on node %s, epoch %d, address %s", podName(f.targetPod()), orNone(v.Status.Target.Node), v.Status.Epoch, orNone(v.Status.Target.Address))
	if a := v.Spec.Attachment; a != nil {
		admitted := "not admitted by the target yet"
		if v.Status.Target.Attachment == a.ID {
			admitted = "admitted by the target"
		}
		p.line("  attached to node %s (%s, %s)", a.Node, a.ID, admitted)
		return
	}
	p.line("  attached to no node")
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

func (p *printer) conditions(f *Facts) {
	if len(f.Volume.Status.Conditions) == 0 {
		return
	}
	p.line("\nConditions")
	rows := []string{"  TYPE\tSTATUS\tSINCE\tREASON\tMESSAGE"}
	for _, c := range f.Volume.Status.Conditions {
		rows = append(rows, fmt.Sprintf("  %s\t%s\t%s\t%s\t%s", c.Type, c.Status, f.age(c.LastTransitionTime.Time), c.Reason, oneLine(c.Message)))
	}
	p.table(rows)
}

func (p *printer) events(f *Facts) {
	events := f.Events[max(0, len(f.Events)-maxEvents):]
	if len(events) == 0 {
		return
	}
	p.line("\nEvents")
	var rows []string
	for _, e := range events {
		rows = append(rows, fmt.Sprintf("  %s ago\t%s\t%s\t%s %s\t%s", f.age(lastSeen(e)), e.Type, e.Reason, e.InvolvedObject.Kind, e.InvolvedObject.Name, oneLine(e.Message)))
	}
	p.table(rows)
}
