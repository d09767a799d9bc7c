package manifests

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

const root = "../.."

func generated(t *testing.T) Generated {
	t.Helper()
	g, err := Read(filepath.Join(root, "deploy"))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func file(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestUpToDate: the files in the repository are what the code makes.
func TestUpToDate(t *testing.T) {
	manifest, err := Defaults().Manifest(generated(t))
	if err != nil {
		t.Fatal(err)
	}
	files, err := Templates(generated(t))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"deploy/cask-operator.yaml": manifest, "charts/cask/values.yaml": Defaults().Values()}
	for name, text := range files {
		want["charts/cask/templates/"+name] = text
	}
	for name, text := range want {
		if !bytes.Equal(file(t, name), text) {
			t.Errorf("%s is not what the code makes: run `make generate`", name)
		}
	}
}

// render is the chart as Helm renders it. The templates use nothing but values
// and the release's name, so that Go's own engine is enough.
func render(t *testing.T, values map[string]any) []client.Object {
	t.Helper()
	data := map[string]any{"Values": values, "Release": map[string]any{"Namespace": "cask-system"}}
	names, err := filepath.Glob(filepath.Join(root, "charts/cask/templates/*"))
	if err != nil {
		t.Fatal(err)
	}
	var objects []client.Object
	for _, name := range names {
		tmpl, err := template.New(name).Option("missingkey=error").Parse(string(file(t, strings.TrimPrefix(name, root+"/"))))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := tmpl.Execute(&out, data); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		more, err := Parse(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, more...)
	}
	return objects
}

// TestChartInstallsTheSame objects as the manifest does, but for the namespace,
// which is Helm's, and the annotation that keeps the kinds.
func TestChartInstallsTheSame(t *testing.T) {
	var values map[string]any
	if err := yaml.Unmarshal(file(t, "charts/cask/values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	manifest, err := Parse(file(t, "deploy/cask-operator.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := byName(manifest)
	delete(want, "Namespace//cask-system")
	got := byName(render(t, values))
	for name, o := range got {
		if strings.HasPrefix(name, "CustomResourceDefinition/") {
			if o.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s would go with the release, and all Volumes with it", name)
			}
			unstructured.RemoveNestedField(o.(*unstructured.Unstructured).Object, "metadata", "annotations", "helm.sh/resource-policy")
		}
		if w, ok := want[name]; !ok {
			t.Errorf("%s is in the chart only", name)
		} else if !equality.Semantic.DeepEqual(o, w) {
			t.Errorf("%s differs between chart and manifest", name)
		}
	}
	for name := range want {
		if got[name] == nil {
			t.Errorf("%s is in the manifest only", name)
		}
	}
}

func byName(objects []client.Object) map[string]client.Object {
	m := map[string]client.Object{}
	for _, o := range objects {
		m[o.GetObjectKind().GroupVersionKind().Kind+"/"+o.GetNamespace()+"/"+o.GetName()] = o
	}
	return m
}

// TestParameters reach every place.
func TestParameters(t *testing.T) {
	p := Params{
		Namespace: "elsewhere", ImagePrefix: "mirror/c-", ImageTag: "v1", ProvisionerImage: "mirror/prov:1", AttacherImage: "mirror/att:1", ResizerImage: "mirror/res:1",
		NodeFailureGrace: "3s", OperatorReplicas: 2,
	}
	text, err := p.Manifest(generated(t))
	if err != nil {
		t.Fatal(err)
	}
	s := string(text)
	for _, old := range []string{"namespace: cask-system", "localhost/", ":dev"} {
		if strings.Contains(s, old) {
			t.Errorf("%q is left", old)
		}
	}
	for _, want := range []string{"image: mirror/c-csi:v1", "image: mirror/prov:1", "image: mirror/att:1", "--node-failure-grace=3s", "--namespace=elsewhere", "replicas: 2"} {
		if !strings.Contains(s, want) {
			t.Errorf("%q is missing", want)
		}
	}
}

// TestPrivileges names every pod with rights on its node; a new one needs a
// reason.
func TestPrivileges(t *testing.T) {
	objects, err := Parse(file(t, "deploy/cask-operator.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var privileged, star []string
	for _, o := range objects {
		u := o.(*unstructured.Unstructured).Object
		containers, _, _ := unstructured.NestedSlice(u, "spec", "template", "spec", "containers")
		for _, c := range containers {
			if is, _, _ := unstructured.NestedBool(c.(map[string]any), "securityContext", "privileged"); is {
				privileged = append(privileged, o.GetName())
			}
		}
		rules, _, _ := unstructured.NestedSlice(u, "rules")
		for _, r := range rules {
			text, _ := yaml.Marshal(r)
			if own := "apiGroups:\n- \"\"\nresources:\n- secrets\nverbs:\n- create\n- get\n"; o.GetName() == "cask-operator" && u["kind"] == "Role" && string(text) == own {
				continue // what it may have mounted into the pods that it makes there, and the keys of volumes, made once
			}
			if strings.Contains(string(text), "'*'") || strings.Contains(string(text), "- secrets") || strings.Contains(string(text), "pods/exec") {
				star = append(star, o.GetName())
			}
		}
	}
	if want := []string{"cask-csi-node", "cask-attach"}; !slices.Equal(privileged, want) {
		t.Errorf("privileged are %v, want %v", privileged, want)
	}
	if len(star) > 0 {
		t.Errorf("%v may do anything, read secrets or enter pods", star)
	}
}
