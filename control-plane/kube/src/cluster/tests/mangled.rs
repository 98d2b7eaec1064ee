//! Somebody between the controller and the API server: delays, cuts off, repeats and makes up answers. Whatever it does, what
//! is served is never less and never older than it was, and in the end what the API server has.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, BodyStream, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use outrigger_wire::proto::config as wire;
use prost::Message;

use super::{
    random::{from_nothing, happens, path, paused},
    server::{Answer, Server, failure},
    *,
};
use crate::cluster::events::{Numbers, assert_same, position};

/// Longer than the longest silence that a watch bears, and the pause after it.
const SETTLED: Duration = Duration::from_secs(400);
/// What is repeated at most.
const REPEATED: usize = 4;

#[derive(Clone)]
struct Mangler {
    server: Server,
    numbers: Arc<Mutex<Numbers>>,
    calm: Arc<AtomicBool>,
}

/// What becomes of one line of a watch.
enum Fate {
    Sent,
    Late(Duration),
    /// After it, the one so many before it again.
    Repeated(usize),
    /// The connection ends in the middle of it, in order or not.
    Cut(bool),
    /// From here on nothing comes, and the connection stays.
    Lost,
    Expired,
}

// === impl Mangler ===

impl Mangler {
    fn new(server: &Server, seed: u64) -> Self {
        Self { server: server.clone(), numbers: Arc::new(Mutex::new(Numbers(seed))), calm: Arc::default() }
    }

    fn client(&self) -> Client {
        let mangler = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let mangler = mangler.clone();
            async move { mangler.serve(request).await }
        });
        Client::new(service, "default")
    }

    fn below(&self, end: usize) -> usize {
        self.numbers.lock().unwrap().below(end)
    }

    async fn serve(&self, request: Request<Body>) -> io::Result<Response<UnsyncBoxBody<Bytes, io::Error>>> {
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        if self.calm.load(Relaxed) {
            return Ok(whole(self.server.answer(&request)?));
        }
        match self.below(8) {
            0 => return Err(io::ErrorKind::ConnectionReset.into()),
            1 => return Ok(whole(failure([401, 403, 410, 429, 500, 502, 503, 504][self.below(8)]))),
            // Up to more than anybody waits.
            2 => sleep(Duration::from_millis(self.below(70_000) as u64)).await,
            _ => sleep(Duration::from_millis(self.below(50) as u64)).await,
        }
        let answer = self.server.answer(&request)?;
        let (parts, body) = answer.into_parts();
        let frames = BodyStream::new(body).map(|frame| frame.unwrap_or_else(|never| match never {}));
        let lines = frames.filter_map(async |frame| frame.into_data().ok());
        let body = if is_watch && parts.status.is_success() {
            StreamBody::new(self.clone().watch(lines)).boxed_unsync()
        } else {
            let (cut, in_order) = (self.below(6) == 0, self.below(2) == 0);
            StreamBody::new(lines.map(move |text| if cut { half(&text, in_order) } else { Ok(Frame::data(text)) }))
                .boxed_unsync()
        };
        Ok(Response::from_parts(parts, body))
    }

    fn fate(&self) -> Fate {
        if self.calm.load(Relaxed) {
            return Fate::Sent;
        }
        match self.below(24) {
            0..4 => Fate::Late(Duration::from_millis(self.below(8_000) as u64)),
            4..8 => Fate::Repeated(self.below(REPEATED)),
            8 => Fate::Cut(false),
            9 => Fate::Cut(true),
            10 => Fate::Lost,
            11 => Fate::Expired,
            _ => Fate::Sent,
        }
    }

    /// The lines of a watch, as they come out at the other end.
    fn watch(
        self,
        lines: impl stream::Stream<Item = Bytes> + Send + 'static,
    ) -> impl stream::Stream<Item = io::Result<Frame<Bytes>>> {
        let begin = (Box::pin(lines), VecDeque::<Bytes>::new(), false);
        let mangled = stream::unfold((self, begin), |(mangler, (mut lines, mut told, over))| async move {
            if over {
                return None;
            }
            let line = lines.next().await?;
            told.push_back(line.clone());
            if told.len() > REPEATED {
                told.pop_front();
            }
            let (mut out, mut over) = (vec![Ok(Frame::data(line.clone()))], false);
            match mangler.fate() {
                Fate::Sent => {}
                Fate::Late(pause) => sleep(pause).await,
                Fate::Repeated(back) => {
                    out.extend(told.iter().rev().nth(back).cloned().map(|line| Ok(Frame::data(line))));
                }
                Fate::Cut(in_order) => {
                    out = vec![half(&line, in_order)];
                    over = true;
                }
                Fate::Lost => std::future::pending().await,
                Fate::Expired => {
                    let status = json!({ "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "made up" });
                    out = vec![Ok(Frame::data(format!("{}\n", json!({ "type": "ERROR", "object": status })).into()))];
                    over = true;
                }
            }
            Some((stream::iter(out), (mangler, (lines, told, over))))
        });
        mangled.flatten()
    }
}

/// The rest of it never comes.
fn half(text: &Bytes, in_order: bool) -> io::Result<Frame<Bytes>> {
    if in_order { Ok(Frame::data(text.slice(..text.len() / 2))) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn whole(answer: Answer) -> Response<UnsyncBoxBody<Bytes, io::Error>> {
    answer.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}

/// Each version of it has a greater number than the one before; everything else may come and go.
fn rock(number: usize) -> [(usize, Value); 2] {
    let metadata = json!({ "namespace": "shop", "name": "rock", "labels": { "kubernetes.io/service-name": "rock" } });
    let ports = json!([{ "name": "http", "port": 80 }, { "name": "number", "port": 1_000 + number }]);
    let service =
        json!({ "metadata": metadata, "spec": { "type": "ClusterIP", "clusterIPs": ["10.1.0.9"], "ports": ports } });
    let endpoints = json!([{ "addresses": ["10.0.9.9"], "conditions": { "ready": true } }]);
    let ports = json!([{ "name": "http", "port": 1_000 + number }]);
    let slice = json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports });
    [(position("Service"), service), (position("EndpointSlice"), slice)]
}

/// The numbers of the rock's service and endpoint that are served; 0 is none.
fn numbers(snapshot: &MeshSnapshot) -> [u32; 2] {
    let service = snapshot.types.get(type_url::SERVICE).and_then(|set| set.resources.get("shop/rock"));
    let service = service.map(|resource| wire::Service::decode(resource.body.clone()).unwrap());
    let endpoints = snapshot.types.get(type_url::ENDPOINT);
    let endpoint = endpoints.and_then(|set| set.resources.beginning_with("shop/rock/").next());
    let endpoint = endpoint.map(|(_, resource)| wire::Endpoint::decode(resource.body.clone()).unwrap());
    let port = service.and_then(|service| service.ports.into_iter().map(|port| port.port).max());
    let target = endpoint.and_then(|endpoint| endpoint.ports.into_iter().map(|port| port.target).max());
    [port.unwrap_or_default(), target.unwrap_or_default()]
}

/// Looks at all that is published.
async fn look(mut snapshots: watch::Receiver<Arc<MeshSnapshot>>) {
    let mut before = [0; 2];
    while snapshots.changed().await.is_ok() {
        let now = numbers(&snapshots.borrow_and_update());
        assert!(now[0] >= before[0].max(1) && now[1] >= before[1].max(1), "{now:?} after {before:?}");
        before = now;
    }
}

#[test]
fn whoever_is_in_between() {
    outrigger_replay::seeds(24, |seed| paused(with(seed)));
}

async fn with(seed: u64) {
    let server = Server::new();
    rock(0).into_iter().for_each(|(kind, object)| server.put(&path(kind), object));
    let mangler = Mangler::new(&server, seed);
    let mut cluster = Cluster::with(server, mangler.client());
    let looking = tokio::spawn(look(cluster.snapshots.clone()));
    let mut choice = Numbers(!seed);
    for round in 0..3 {
        mangler.calm.store(false, Relaxed);
        for number in 1..60 {
            match choice.below(8) {
                0..4 => happens(&cluster.server, &mut choice),
                4 => {
                    let objects = rock(round * 100 + number);
                    objects.into_iter().for_each(|(kind, object)| cluster.server.put(&path(kind), object));
                }
                _ => sleep(Duration::from_millis(choice.below(3_000) as u64)).await,
            }
        }
        mangler.calm.store(true, Relaxed);
        sleep(SETTLED).await;
        let derived = cluster.derived.borrow_and_update().clone().unwrap();
        let context = format!("seed {seed}, round {round}");
        assert_same(&derived, &from_nothing(&cluster), &context);
        assert_eq!(**cluster.snapshots.borrow(), *derived.snapshot, "{context}");
        if looking.is_finished() {
            looking.await.unwrap();
            return;
        }
    }
}
