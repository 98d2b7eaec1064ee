//! An API server for tests, in memory: objects by path, optimistic concurrency, server-side apply of one manager, and
//! the rule that guards `status.leaseTransitions`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::{Client, client::Body};
use serde_json::{Map, Value, json};

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Each as `METHOD PATH`.
    log: Vec<String>,
    /// Codes that the next requests whose `METHOD PATH` contains the text are answered with.
    failures: VecDeque<(String, u16)>,
    /// Before each answer.
    delay: Duration,
}

type Answer = Result<Value, (u16, &'static str)>;

// === impl Fake ===

impl Fake {
    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, std::convert::Infallible>(fake.serve(request).await) }
        });
        Client::new(service, "default")
    }

    /// Writes an object, whatever was there. Its path has no leading slash: `api/v1/namespaces/a/configmaps/b`.
    pub(crate) fn put(&self, path: &str, object: Value) {
        let mut state = self.0.lock().unwrap();
        state.store(path, object);
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.0.lock().unwrap().objects.get(path).cloned().unwrap_or_default()
    }

    /// All objects below a path.
    pub(crate) fn list(&self, path: &str) -> Vec<Value> {
        let prefix = format!("{path}/");
        let state = self.0.lock().unwrap();
        state.objects.iter().filter(|(path, _)| path.starts_with(&prefix)).map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn delete(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    /// Changes a field by its JSON pointer.
    pub(crate) fn edit(&self, path: &str, pointer: &str, value: Value) {
        let mut object = self.get(path);
        *object.pointer_mut(pointer).unwrap() = value;
        self.put(path, object);
    }

    pub(crate) fn fail(&self, matching: &str, code: u16) {
        self.0.lock().unwrap().failures.push_back((matching.to_owned(), code));
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.0.lock().unwrap().delay = delay;
    }

    /// What was written since the last call, each as `METHOD PATH`.
    pub(crate) fn writes(&self) -> Vec<String> {
        let log = std::mem::take(&mut self.0.lock().unwrap().log);
        log.into_iter().filter(|line| !line.starts_with("GET")).collect()
    }

    async fn serve(&self, request: Request<Body>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let delay = self.0.lock().unwrap().delay;
        // Half of the way there, half of it back.
        tokio::time::sleep(delay / 2).await;
        let kind = parts.headers.get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
        let answer = self.0.lock().unwrap().answer(&parts.method, parts.uri.path(), &kind, &body);
        tokio::time::sleep(delay / 2).await;
        let (code, body) = match answer {
            Ok(body) => (200, body),
            Err((code, message)) => {
                (code, json!({ "kind": "Status", "status": "Failure", "code": code, "message": message, "reason": "" }))
            }
        };
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        response
    }
}

// === impl State ===

impl State {
    fn answer(&mut self, method: &Method, path: &str, kind: &str, body: &[u8]) -> Answer {
        let line = format!("{method} {}", path.trim_start_matches('/'));
        self.log.push(line.clone());
        if let Some(at) = self.failures.iter().position(|(matching, _)| line.contains(matching)) {
            return Err((self.failures.remove(at).unwrap().1, "told to fail"));
        }
        let path = path.trim_start_matches('/');
        let (path, status) = path.strip_suffix("/status").map_or((path, false), |path| (path, true));
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        match method.as_str() {
            "GET" => self.read(path),
            "POST" => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) {
                    return Err((409, "already exists"));
                }
                Ok(self.store(&path, body))
            }
            "PUT" => {
                let before = self.objects.get(path).ok_or((404, "not found"))?;
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != before["metadata"]["resourceVersion"] {
                    return Err((409, "the object has been modified"));
                }
                let mut after = if status { before.clone() } else { body.clone() };
                if status {
                    after["status"] = body["status"].clone();
                }
                self.guarded(path, after)
            }
            "PATCH" => self.patch(path, kind, body, status),
            other => panic!("{other} isn't answered"),
        }
    }

    fn patch(&mut self, path: &str, kind: &str, body: Value, status: bool) -> Answer {
        let mut after = match self.objects.get(path) {
            Some(before) => before.clone(),
            None if kind == "application/apply-patch+yaml" && !status => json!({}),
            None => return Err((404, "not found")),
        };
        let version = &body["metadata"]["resourceVersion"];
        if !version.is_null() && *version != after["metadata"]["resourceVersion"] {
            return Err((409, "the object has been modified"));
        }
        if kind == "application/json-patch+json" {
            let patch: json_patch::Patch = serde_json::from_value(body).unwrap();
            json_patch::patch(&mut after, &patch).map_err(|_| (422, "a test failed"))?;
        } else {
            merge(&mut after, body);
        }
        self.guarded(path, after)
    }

    fn guarded(&mut self, path: &str, after: Value) -> Answer {
        let epoch = |object: &Value| object["status"]["leaseTransitions"].as_i64();
        if epoch(&after) < self.objects.get(path).and_then(epoch) {
            return Err((422, "status.leaseTransitions: a newer leader has written this status"));
        }
        Ok(self.store(path, after))
    }

    fn read(&self, path: &str) -> Answer {
        if let Some(object) = self.objects.get(path) {
            return Ok(object.clone());
        }
        // Of one namespace, or of all.
        let (api, kind) = path.rsplit_once('/').unwrap();
        let (here, anywhere) = (format!("{path}/"), (format!("{api}/namespaces/"), format!("/{kind}/")));
        let below =
            |path: &String| path.starts_with(&here) || (path.starts_with(&anywhere.0) && path.contains(&anywhere.1));
        let items: Vec<_> = self.objects.iter().filter(|(path, _)| below(path)).collect();
        if items.is_empty() && !path.ends_with('s') {
            return Err((404, "not found"));
        }
        let items: Vec<&Value> = items.into_iter().map(|(_, object)| object).collect();
        Ok(json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items }))
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        // As an API server does: what changes nothing gets no new version.
        if self.objects.get(path).is_some_and(|before| *before == object) {
            return object;
        }
        self.version += 1;
        if let Some((namespace, _)) = path.split_once("/namespaces/").and_then(|(_, rest)| rest.split_once('/')) {
            object["metadata"]["namespace"] = namespace.into();
        }
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

/// Enough of server-side apply for one manager, and of a merge patch: maps merge, and so do webhooks by their names; other
/// lists are replaced.
fn merge(into: &mut Value, from: Value) {
    let is_webhooks = |value: &Value| value[0]["clientConfig"].is_object();
    match (into, from) {
        (Value::Array(into), from) if is_webhooks(&from) => {
            for webhook in from.as_array().into_iter().flatten() {
                match into.iter_mut().find(|found| found["name"] == webhook["name"]) {
                    Some(found) => merge(found, webhook.clone()),
                    None => into.push(webhook.clone()),
                }
            }
        }
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Object(Map::new())), value);
            }
        }
        (into, from) => *into = from,
    }
}
