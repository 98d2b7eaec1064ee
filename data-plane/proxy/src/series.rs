//! A worker's handles to metric series: looked up by pointers, so that a request formats and hashes no text.

use std::{cell::RefCell, collections::HashSet, sync::Arc};

use outrigger_core::Map;

use crate::{
    http::no_name,
    telemetry::{Direction, HttpSeries, Metrics, PolicySeries, TcpSeries},
};

/// Handles that this worker has used. Holds the names too, so that no pointer is reused while it is a key.
#[derive(Default)]
pub(crate) struct SeriesCache {
    http: RefCell<Map<Key, (Names, Arc<HttpSeries>)>>,
    tcp: RefCell<Map<Key, (Names, Arc<TcpSeries>)>>,
    policies: RefCell<Map<Key, (Names, Arc<PolicySeries>)>>,
    names: RefCell<HashSet<Arc<str>>>,
}

/// Direction, then the addresses of service, route and peer names.
type Key = (bool, usize, usize, usize);
type Names = [Arc<str>; 3];

/// Names are re-made with each version of a service, so old ones must go.
const MAX: usize = 4096;

impl SeriesCache {
    /// The one copy of a name that comes with each connection anew, such as its peer's: series are found by address.
    pub(crate) fn name(&self, name: &str) -> Arc<str> {
        let mut names = self.names.borrow_mut();
        if let Some(known) = names.get(name) {
            return known.clone();
        }
        if names.len() >= MAX {
            names.clear();
        }
        let name: Arc<str> = name.into();
        names.insert(name.clone());
        name
    }

    pub(crate) fn http(
        &self,
        metrics: &Metrics,
        direction: Direction,
        names: [&Arc<str>; 3],
        use_it: impl FnOnce(&HttpSeries),
    ) {
        let [service, route, peer] = names;
        cached(&self.http, direction, names, || metrics.http(direction, service, route, peer), |series| use_it(series));
    }

    /// `None`: no policy has decided, the default has.
    pub(crate) fn policy(&self, metrics: &Metrics, policy: Option<&Arc<str>>) -> Arc<PolicySeries> {
        let policy = policy.cloned().unwrap_or_else(|| self.name("default"));
        let names = [&policy, &no_name(), &no_name()];
        cached(&self.policies, Direction::Inbound, names, || metrics.policy(&policy), Arc::clone)
    }

    pub(crate) fn tcp(&self, metrics: &Metrics, direction: Direction, names: &Names) -> Arc<TcpSeries> {
        let [service, _, peer] = names;
        cached(&self.tcp, direction, names.each_ref(), || metrics.tcp(direction, service, peer), Arc::clone)
    }
}

fn cached<S, R>(
    cache: &RefCell<Map<Key, (Names, Arc<S>)>>,
    direction: Direction,
    names: [&Arc<str>; 3],
    make: impl FnOnce() -> Arc<S>,
    use_it: impl FnOnce(&Arc<S>) -> R,
) -> R {
    let [first, second, third] = names.map(|name| name.as_ptr() as usize);
    let key = (direction == Direction::Inbound, first, second, third);
    let mut cache = cache.borrow_mut();
    if let Some((_, series)) = cache.get(&key) {
        return use_it(series);
    }
    if cache.len() >= MAX {
        cache.clear();
    }
    let (_, series) = cache.entry(key).or_insert((names.map(Arc::clone), make()));
    use_it(series)
}
