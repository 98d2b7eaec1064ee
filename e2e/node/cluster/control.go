package cluster

import "outrigger.dev/e2e/node/sandbox"

// kubernetes is the all-in-one program as machines see it; keys is where a machine finds its certificates.
const (
	kubernetes = sandbox.BinDir + "/kubernetes"
	keys       = "/var/lib/kubernetes"
)

// controlProcesses are the control plane, and a kube-proxy so that the API server reaches webhooks by their Services.
// They start together; who needs another that isn't there yet ends and is started again.
func controlProcesses() []sandbox.Process {
	return []sandbox.Process{
		{Name: "etcd", Args: []string{
			"/usr/bin/etcd",
			"--data-dir=/var/lib/etcd",
			"--listen-client-urls=http://127.0.0.1:2379",
			"--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380",
			"--log-level=warn",
		}},
		{Name: "kube-apiserver", Args: []string{
			kubernetes, "kube-apiserver",
			"--etcd-servers=http://127.0.0.1:2379",
			"--advertise-address=" + control4,
			"--service-cluster-ip-range=" + services4 + "," + services6,
			"--tls-cert-file=" + keys + "/apiserver.crt",
			"--tls-private-key-file=" + keys + "/apiserver.key",
			"--client-ca-file=" + keys + "/ca.crt",
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--anonymous-auth=true",
			"--allow-privileged=true",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-signing-key-file=" + keys + "/serviceaccount.key",
			"--service-account-key-file=" + keys + "/serviceaccount.crt",
			"--kubelet-certificate-authority=" + keys + "/ca.crt",
			"--kubelet-client-certificate=" + keys + "/apiserver-kubelet.crt",
			"--kubelet-client-key=" + keys + "/apiserver-kubelet.key",
			// Else exec and logs look the node's name up in DNS.
			"--kubelet-preferred-address-types=InternalIP,Hostname",
			"--requestheader-client-ca-file=" + keys + "/ca.crt",
			"--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User",
			"--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + keys + "/front-proxy-client.crt",
			"--proxy-client-key-file=" + keys + "/front-proxy-client.key",
		}},
		{Name: "kube-controller-manager", Args: []string{
			kubernetes, "kube-controller-manager",
			"--kubeconfig=" + keys + "/kube-controller-manager.kubeconfig",
			"--authentication-kubeconfig=" + keys + "/kube-controller-manager.kubeconfig",
			"--authorization-kubeconfig=" + keys + "/kube-controller-manager.kubeconfig",
			"--use-service-account-credentials",
			"--service-account-private-key-file=" + keys + "/serviceaccount.key",
			"--root-ca-file=" + keys + "/ca.crt",
			"--cluster-signing-cert-file=" + keys + "/ca.crt",
			"--cluster-signing-key-file=" + keys + "/ca.key",
			"--allocate-node-cidrs=false",
			"--leader-elect=false",
		}},
		{Name: "kube-scheduler", Args: []string{
			kubernetes, "kube-scheduler",
			"--kubeconfig=" + keys + "/kube-scheduler.kubeconfig",
			"--authentication-kubeconfig=" + keys + "/kube-scheduler.kubeconfig",
			"--authorization-kubeconfig=" + keys + "/kube-scheduler.kubeconfig",
			"--leader-elect=false",
		}},
		kubeProxy(),
	}
}

// controlFiles are the control machine's certificates and settings.
func controlFiles(p *pki) (files, error) {
	result := files{"ca.crt": p.pem}
	var err error
	issue := func(name, user, group string, hosts ...string) {
		if err == nil {
			var issued pair
			issued, err = p.issue(user, group, hosts...)
			result.pair(name, issued)
		}
	}
	issue("apiserver", "kube-apiserver", "",
		control4, control6, apiService4, apiService6, "127.0.0.1", "localhost",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	issue("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters")
	issue("front-proxy-client", "front-proxy-client", "")
	if err != nil {
		return nil, err
	}
	tokens, err := keyPair()
	if err != nil {
		return nil, err
	}
	result.pair("serviceaccount", tokens)
	if result["ca.key"], err = encodeKey(p.key); err != nil {
		return nil, err
	}
	for _, name := range []string{"kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		if result[name+".kubeconfig"], err = p.kubeconfig("system:"+name, ""); err != nil {
			return nil, err
		}
	}
	// It needs some node's name to find out what is local; here nothing is.
	result["kube-proxy.yaml"], err = proxyConfig(Node{Number: 1}.name())
	return result, err
}

func kubeProxy() sandbox.Process {
	return sandbox.Process{Name: "kube-proxy", Args: []string{kubernetes, "kube-proxy", "--config=" + keys + "/kube-proxy.yaml"}}
}

func proxyConfig(node string) ([]byte, error) {
	return render("kube-proxy.yaml", map[string]string{"Node": node, "Pods": pods4 + "," + pods6})
}
