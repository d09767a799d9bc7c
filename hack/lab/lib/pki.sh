# Certificates and kubeconfigs of a lab: one authority, ECDSA keys, all under
# $DIR/pki, readable by root only.
# shellcheck shell=bash

API_INSIDE=https://10.89.0.1:6443

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

make_authority() {
  new_key ca
  openssl req -x509 -new -key ca.key -out ca.crt -subj /CN=cask-lab -days 3650
}

# make_certificate FILE SUBJECT [NAMES]
make_certificate() {
  local names=${3:+subjectAltName=$3}
  new_key "$1"
  openssl req -new -key "$1.key" -subj "$2" |
    openssl x509 -req -CA ca.crt -CAkey ca.key -out "$1.crt" -days 3650 -set_serial "0x$(openssl rand -hex 8)" \
      -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\n%s\n' "$names") 2>/dev/null
}

# make_kubeconfig FILE SERVER CERTIFICATE
make_kubeconfig() {
  cat >"$1" <<END
apiVersion: v1
kind: Config
current-context: lab
clusters: [{name: lab, cluster: {server: "$2", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $3, user: {client-certificate-data: $(base64 -w0 "$3.crt"), client-key-data: $(base64 -w0 "$3.key")}}]
contexts: [{name: lab, context: {cluster: lab, user: $3}}]
END
}

# make_client NAME SUBJECT: a certificate and the kubeconfig that uses it.
make_client() {
  make_certificate "$1" "$2"
  make_kubeconfig "$1.kubeconfig" "$API_INSIDE" "$1"
}

# make_pki NODE-COUNT
make_pki() (
  umask 077
  mkdir -p "$DIR/pki"
  cd "$DIR/pki"
  make_authority
  make_certificate apiserver /CN=kube-apiserver \
    IP:10.89.0.1,IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
  make_certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  make_certificate front-proxy /CN=front-proxy-client
  make_client admin /O=system:masters/CN=admin
  make_client manager /CN=system:kube-controller-manager
  make_client scheduler /CN=system:kube-scheduler
  make_client proxy /CN=system:kube-proxy
  for i in $(seq "$1"); do make_client "node$i" "/O=system:nodes/CN=system:node:node$i"; done
  openssl genrsa -out accounts.key 2048 2>/dev/null
  openssl rsa -in accounts.key -pubout -out accounts.pub 2>/dev/null
  make_kubeconfig ../admin.kubeconfig "https://127.0.0.1:$PORT" admin
)
