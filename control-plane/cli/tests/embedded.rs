//! The terminal against a real controller in embedded mode: `explain` and `status` as a person calls them.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use outrigger_testbed::machine::binary;
use serde_json::Value;
use tempfile::TempDir;

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: beta, namespace: shop}
spec:
  clusterIP: 10.96.0.11
  selector: {app: beta}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: front-1, namespace: shop, labels: {app: front}}
spec: {addresses: [10.0.0.1], serviceAccount: front}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {addresses: [10.0.0.2], serviceAccount: web}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: beta-1, namespace: shop, labels: {app: beta}}
spec: {addresses: [10.0.0.3], serviceAccount: beta}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{headers: [{name: x-beta, value: "yes"}]}]
    backendRefs: [{name: beta, port: 80}]
  - backendRefs: [{name: web, port: 80}]
---
apiVersion: outrigger.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-writing, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: Deny
  rules:
  - to: [{methods: [POST], paths: ["/admin/*"]}]
"#;

struct Controller {
    process: Child,
    admin: String,
    _dir: TempDir,
}

impl Controller {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["config", "tokens"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("config/shop.yaml"), SHOP).unwrap();
        let mut process = Command::new(binary("outrigger-controller").unwrap())
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .arg("--config-dir")
            .arg(dir.path().join("config"))
            .arg("--tokens")
            .arg(dir.path().join("tokens"))
            .arg("--state")
            .arg(dir.path().join("state"))
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addresses: Value = serde_json::from_str(&line).unwrap();
        let controller = Self { process, admin: addresses["admin"].as_str().unwrap().to_owned(), _dir: dir };
        // Until it has read the folder.
        let begun = Instant::now();
        while !controller.outrigger(&["explain", "shop/front-1", "svc/shop/web"]).status.success() {
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing is served");
        }
        controller
    }

    fn outrigger(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        // No cluster is to be asked, whatever this machine has.
        command.env("KUBECONFIG", "/dev/null").args(args).args(["--controller-admin", &self.admin]);
        command.output().unwrap()
    }

    fn json(&self, args: &[&str]) -> (Value, Option<i32>) {
        let output = self.outrigger(&[args, &["--json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}")), output.status.code())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn explain_says_what_the_proxies_would_do() {
    let controller = Controller::start();
    let explain =
        |to: &str, rest: &[&str]| controller.json(&[&["explain", "-n", "shop", "pod/front-1", to], rest].concat());

    let (told, code) = explain("svc/web:80", &["GET", "/", "-H", "x-beta: yes"]);
    assert_eq!((&told["allowed"], code), (&Value::Bool(true), Some(0)), "{told:#}");
    assert_eq!(told["route"]["rule"], "HTTPRoute/shop/web#0");
    let endpoint = &told["backends"][0]["endpoints"][0];
    assert_eq!((&endpoint["workload"], &endpoint["port"]), (&"shop/beta-1".into(), &8080.into()), "{told:#}");
    assert_eq!(endpoint["transport"], "mtls");

    let (told, code) = explain("web.shop.svc.cluster.local:80", &["POST", "/x/..//admin/rights"]);
    assert_eq!((&told["allowed"], code), (&Value::Bool(false), Some(1)), "{told:#}");
    assert_eq!(told["route"]["rule"], "HTTPRoute/shop/web#1");
    let verdict = &told["backends"][0]["endpoints"][0]["verdict"];
    assert_eq!(verdict["policy"], "AccessPolicy/shop/no-writing", "{told:#}");
    assert_eq!(verdict["policies"][0]["matchingRules"], serde_json::json!([0]));

    // By its own address a pod is called past the Service's routes, and not past its policies.
    for to in ["10.0.0.2:8080", "pod/web-1:8080"] {
        let (told, code) = explain(to, &["POST", "/admin"]);
        assert_eq!((&told["route"], code), (&Value::Null, Some(1)), "{told:#}");
    }
    let (told, code) = explain("192.0.2.1:443", &[]);
    assert_eq!((&told["destination"]["service"], code), (&Value::Null, Some(0)), "{told:#}");

    let text = controller.outrigger(&["explain", "shop/front-1", "svc/shop/web", "POST", "/admin"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.starts_with("Denied at shop/web-1: denied by AccessPolicy/shop/no-writing.\n"), "{text}");
    assert!(text.contains("If a sidecar dies"), "{text}");
}

#[test]
fn yaml_by_hand_gets_its_proxies() {
    let dir = tempfile::tempdir().unwrap();
    let (pods, config) = (dir.path().join("pods.yaml"), dir.path().join("injector.yaml"));
    fs::write(&config, "image: registry.example/outrigger:7\n").unwrap();
    let pod = |more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: shop{more}}}\nspec: {{containers: [{{name: app, image: x}}]}}\n"
        )
    };
    let inject = |text: &str, args: &[&str]| {
        fs::write(&pods, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command
            .env("KUBECONFIG", "/nonexistent")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .arg("inject")
            .arg("-f")
            .arg(&pods);
        let output = command.args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code())
    };
    let settings = ["--injector-config", config.to_str().unwrap()];
    let (out, error, code) = inject(&pod(""), &settings);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("outrigger-sidecar") && out.contains("registry.example/outrigger:7"), "{out}");
    assert_eq!(error, "injected Pod/shop/a\n");
    let (again, error, _) = inject(&out, &settings);
    assert!(again == out && error.contains("injected already"), "{error}");

    let (out, error, code) = inject(&pod(""), &["--mode", "shared"]);
    assert!(code == Some(0) && out.contains("outrigger-guard") && !out.contains("name: outrigger-sidecar"), "{out}");
    assert!(error.contains("note: injected with the built-in settings"), "{error}");
    let (out, error, _) = inject(&pod(""), &["--namespace-labels", "a=b,outrigger.dev/mode=none"]);
    assert!(out == pod("") && error.contains("left as it is: Pod/shop/a"), "{out}{error}");
    // Refused: said on stderr, and nothing that could be applied.
    let (out, error, code) = inject(&pod(", annotations: {outrigger.dev/wrokers: \"1\"}"), &settings);
    assert!(code == Some(1) && out.is_empty() && error.contains("workers"), "{out}{error}");
}

#[test]
fn exit_codes_are_what_they_are_said_to_be() {
    let controller = Controller::start();
    for (args, want) in [
        (&["explain", "shop/nobody", "svc/shop/web"][..], 2),
        (&["explain", "shop/front-1", "svc/shop/none"], 2),
        (&["explain", "deploy/front", "svc/shop/web"], 2),
        (&["explain", "shop/front-1", "192.0.2.1"], 2),
        (&["status"], 0),
    ] {
        let output = controller.outrigger(args);
        assert_eq!(output.status.code(), Some(want), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let (status, _) = controller.json(&["status"]);
    assert_eq!(status["controllers"][0]["name"], controller.admin.as_str());
    assert_eq!(status["proxies"], serde_json::json!([]));

    // Nobody listens there, and there is no cluster either.
    let alone = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        let output =
            command.env("KUBECONFIG", "/nonexistent").env_remove("KUBERNETES_SERVICE_HOST").args(args).output();
        output.unwrap().status.code()
    };
    assert_eq!(alone(&["status", "--controller-admin", "127.0.0.1:9"]), Some(3));
    for command in [&["status"][..], &["check", "--json"], &["explain", "a", "b:80"]] {
        assert_eq!(alone(command), Some(3), "{command:?}");
    }
    assert_eq!(alone(&["version", "--json"]), Some(0));
    assert_eq!(alone(&["completion", "bash"]), Some(0));
    assert_eq!(alone(&["no-such-command"]), Some(2));
}
