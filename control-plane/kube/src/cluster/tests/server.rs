//! An API server that lists and watches, and fails as it is told. A watch begins where it is asked to, as long as the server
//! hasn't been restarted since.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By collection (`/api/v1/services`) and `NAMESPACE/NAME`.
    collections: BTreeMap<String, BTreeMap<String, Value>>,
    version: u64,
    watches: HashMap<String, Vec<mpsc::UnboundedSender<Bytes>>>,
    /// By collection, with their versions.
    events: HashMap<String, Vec<(u64, Bytes)>>,
    /// Nobody is there to connect to.
    away: bool,
    /// When it was started last: it knows nothing of what was before.
    oldest: u64,
    /// Collections that are answered with a code: lists and watches apart.
    refused: HashMap<(String, bool), u16>,
    /// Collections that don't answer.
    silent: Vec<String>,
    /// Page tokens have run out.
    expired: bool,
    /// Of lists and watches, as asked for.
    log: Vec<String>,
}

// === impl Server ===

impl Server {
    pub(super) fn new() -> Self {
        let server = Self::default();
        for kind in &super::KINDS {
            server.install(&kind.path(kind.versions[0]));
        }
        server
    }

    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let silent = server.0.lock().unwrap().silent.iter().any(|path| path == request.uri().path());
                if silent {
                    std::future::pending::<()>().await;
                }
                server.answer(&request)
            }
        });
        Client::new(service, "default")
    }

    pub(super) fn answer(&self, request: &Request<Body>) -> io::Result<Answer> {
        let mut state = self.state();
        if state.away {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        Ok(state.answer(request))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn install(&self, path: &str) {
        self.state().collections.entry(path.to_owned()).or_default();
    }

    /// The API goes away, without a word to those who watch.
    pub(super) fn uninstall(&self, path: &str) {
        self.state().collections.remove(path);
        self.close(path);
    }

    /// Creates or changes an object; tells who watches.
    pub(super) fn put(&self, path: &str, object: Value) {
        let event = self.store(path, object);
        self.tell(path, &event);
    }

    /// Creates or changes an object; who watches isn't told.
    pub(super) fn store(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let objects = state.collections.get_mut(path).unwrap();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        object["metadata"]["managedFields"] = json!([{ "manager": "test" }]);
        let before = objects.get(&key(&object));
        let uid = before.map_or_else(|| format!("uid-{version}").into(), |before| before["metadata"]["uid"].clone());
        object["metadata"]["uid"] = uid;
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        objects.insert(key(&object), object.clone());
        state.happened(path, json!({ "type": kind, "object": object }))
    }

    pub(super) fn delete(&self, path: &str, name: &str) {
        let event = self.remove(path, name);
        self.tell(path, &event);
    }

    /// Who watches isn't told.
    pub(super) fn remove(&self, path: &str, name: &str) -> Value {
        let mut state = self.state();
        let mut object = state.collections.get_mut(path).unwrap().remove(name).unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.happened(path, json!({ "type": "DELETED", "object": object }))
    }

    /// All objects of a collection.
    pub(super) fn objects(&self, path: &str) -> Vec<Value> {
        self.state().collections.get(path).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// It ends, and with it all watches.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.away = true;
        state.watches.clear();
    }

    /// It is back, as one that has just been started.
    pub(super) fn start(&self) {
        let mut state = self.state();
        state.away = false;
        state.oldest = state.version;
    }

    /// Much was written that nobody here watches.
    pub(super) fn skip_to(&self, version: u64) {
        self.state().version = version;
    }

    /// Sends an event to those who watch.
    pub(super) fn tell(&self, path: &str, event: &Value) {
        if let Some(watches) = self.state().watches.get_mut(path) {
            watches.retain(|watch| watch.send(format!("{event}\n").into()).is_ok());
        }
    }

    /// Ends all watches of a collection.
    pub(super) fn close(&self, path: &str) {
        self.state().watches.remove(path);
    }

    /// All watches are from too long ago.
    pub(super) fn expire(&self, path: &str) {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
            "message": "too old resource version" });
        self.tell(path, &json!({ "type": "ERROR", "object": status }));
        self.close(path);
    }

    pub(super) fn expire_pages(&self) {
        self.state().expired = true;
    }

    pub(super) fn refuse(&self, path: &str, code: u16) {
        self.refuse_lists(path, code);
        self.refuse_watches(path, code);
    }

    pub(super) fn refuse_lists(&self, path: &str, code: u16) {
        self.state().refused.insert((path.to_owned(), false), code);
    }

    pub(super) fn refuse_watches(&self, path: &str, code: u16) {
        self.state().refused.insert((path.to_owned(), true), code);
    }

    pub(super) fn accept(&self, path: &str) {
        self.state().refused.retain(|(refused, _), _| refused != path);
    }

    pub(super) fn silence(&self, path: &str) {
        self.state().silent.push(path.to_owned());
    }

    /// What was asked of a collection since the last call, each as its query.
    pub(super) fn asked(&self, path: &str) -> Vec<String> {
        let mut state = self.state();
        let (asked, rest) =
            std::mem::take(&mut state.log).into_iter().partition(|line| line.starts_with(&format!("{path}?")));
        state.log = rest;
        asked
    }
}

fn key(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap();
    object["metadata"]["namespace"].as_str().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

fn full(code: u16, body: &Value) -> Answer {
    let mut response = Response::new(Full::from(body.to_string()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

pub(super) fn failure(code: u16) -> Answer {
    full(code, &json!({ "kind": "Status", "status": "Failure", "code": code, "message": "told to fail", "reason": "" }))
}

// === impl State ===

impl State {
    fn answer(&mut self, request: &Request<Body>) -> Answer {
        let path = request.uri().path();
        let query: HashMap<&str, &str> =
            request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        self.log.push(format!("{path}?{}", request.uri().query().unwrap_or_default()));
        let watch = query.get("watch") == Some(&"true");
        if let Some(code) = self.refused.get(&(path.to_owned(), watch)) {
            return failure(*code);
        }
        if let Some(objects) = self.collections.get(path) {
            if watch {
                let since = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
                return if since < self.oldest { failure(410) } else { self.watch(path, since) };
            }
            if self.expired && query.contains_key("continue") {
                return failure(410);
            }
            return full(200, &page(objects, self.version, &query));
        }
        self.resources(path)
    }

    fn happened(&mut self, path: &str, event: Value) -> Value {
        let text = Bytes::from(format!("{event}\n"));
        self.events.entry(path.to_owned()).or_default().push((self.version, text));
        event
    }

    fn watch(&mut self, path: &str, since: u64) -> Answer {
        let (events, incoming) = mpsc::unbounded_channel::<Bytes>();
        for (_, event) in self.events.get(path).into_iter().flatten().filter(|(version, _)| *version > since) {
            // The other end is right here.
            let _ = events.send(event.clone());
        }
        self.watches.entry(path.to_owned()).or_default().push(events);
        let frames = futures_util::stream::unfold(incoming, |mut incoming| async move {
            let event = incoming.recv().await?;
            Some((Ok(Frame::data(event)), incoming))
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    /// What a group has, if it is there.
    fn resources(&self, group: &str) -> Answer {
        let prefix = format!("{group}/");
        let names: Vec<Value> = self
            .collections
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix))
            .map(|name| json!({ "name": name, "singularName": "", "namespaced": true, "kind": "", "verbs": [] }))
            .collect();
        if names.is_empty() {
            return failure(404);
        }
        full(200, &json!({ "kind": "APIResourceList", "groupVersion": group, "resources": names }))
    }
}

/// Tokens are the first key of the next page.
fn page(objects: &BTreeMap<String, Value>, version: u64, query: &HashMap<&str, &str>) -> Value {
    let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let from = query.get("continue").map(|token| token.replace("%2F", "/")).unwrap_or_default();
    let mut rest = objects.range(from..);
    let items: Vec<&Value> = rest.by_ref().take(limit).map(|(_, object)| object).collect();
    let next = rest.next().map(|(key, _)| key);
    json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": version.to_string(), "continue": next }, "items": items })
}
