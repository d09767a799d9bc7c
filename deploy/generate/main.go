// Command generate writes the manifest and the Helm chart from package
// manifests and what controller-gen made. By default it renews the files of the
// repository; with -o it writes a manifest of other parameters.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cask-storage/cask/deploy/manifests"
)

func main() {
	p := manifests.Defaults()
	root := flag.String("root", ".", "the repository")
	out := flag.String("o", "", "write only the manifest, there; - is standard output")
	flag.StringVar(&p.Namespace, "namespace", p.Namespace, "namespace of Cask's pods")
	flag.StringVar(&p.ImagePrefix, "image-prefix", p.ImagePrefix, "images are <prefix>operator:<tag> and so on")
	flag.StringVar(&p.ImageTag, "image-tag", p.ImageTag, "tag of the images")
	flag.StringVar(&p.ProvisionerImage, "provisioner-image", p.ProvisionerImage, "image of csi-provisioner")
	flag.StringVar(&p.AttacherImage, "attacher-image", p.AttacherImage, "image of csi-attacher")
	flag.StringVar(&p.ResizerImage, "resizer-image", p.ResizerImage, "image of csi-resizer")
	flag.StringVar(&p.NodeFailureGrace, "node-failure-grace", p.NodeFailureGrace, "the operator's --node-failure-grace")
	flag.Parse()
	if err := run(p, *root, *out); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(p manifests.Params, root, out string) error {
	g, err := manifests.Read(filepath.Join(root, "deploy"))
	if err != nil {
		return err
	}
	manifest, err := p.Manifest(g)
	if err != nil {
		return err
	}
	switch out {
	case "":
	case "-":
		_, err := os.Stdout.Write(manifest)
		return err
	default:
		return os.WriteFile(out, manifest, 0o644)
	}
	files := map[string][]byte{
		"deploy/cask-operator.yaml": manifest,
		"charts/cask/values.yaml":   p.Values(),
	}
	templates, err := manifests.Templates(g)
	if err != nil {
		return err
	}
	for name, text := range templates {
		files["charts/cask/templates/"+name] = text
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
