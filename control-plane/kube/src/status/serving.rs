//! Which pods their own proxies don't serve now, and what becomes of their connections by their owners' choice. Pure.
//!
//! It is what the API server has: the kubelet's word for which containers run. A sidecar that hangs is told of when the
//! kubelet has given it up; that no controller is heard can't be known here.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use outrigger_model::{Effects, Reach, inputs::Mode};
use outrigger_wire::{
    names::type_url,
    proto::config::{
        Fallback,
        fallback::{OnFallbackFailure, OnSidecarFailure},
    },
};

use crate::{
    cluster::Derived,
    pod::{Carrier, Phase, Pod},
};

/// Pods named of each course; more would say nothing new.
const NAMED: usize = 3;

/// What becomes of a pod's connections, from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Course {
    Closed,
    /// They go on without any proxy.
    Direct,
    /// Shared proxies carry them, as a sidecar would.
    Fallback,
}

/// All pods whose connections aren't in the hands that they should be in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Astray(BTreeMap<Arc<str>, Course>);

/// Those of them that one object has a say in: how many, and the names of a few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Serving(BTreeMap<Course, (usize, Vec<Arc<str>>)>);

// === impl Astray ===

impl Astray {
    pub(crate) fn of(view: &Derived) -> Self {
        let all = view.pods.iter().filter_map(|(name, pod)| {
            if !should_serve(pod) || (pod.has, pod.carrier) == (Mode::Sidecar, Carrier::Sidecar) {
                return None;
            }
            let course = course(&view.snapshot.fallback(name)?, pod.carrier);
            let intended = (pod.has, course) == (Mode::Shared, Course::Fallback);
            (!intended).then(|| (Arc::clone(name), course))
        });
        Self(all.collect())
    }

    /// Those of an object with these effects.
    pub(crate) fn within(&self, effects: &Effects) -> Serving {
        let mut serving = Serving::default();
        match effects.get(type_url::INBOUND) {
            None => {}
            Some(Reach::Named(names)) if names.len() < self.0.len() => {
                let found = names.iter().filter_map(|name| self.0.get_key_value(name));
                found.for_each(|(name, course)| serving.add(*course, name));
            }
            Some(Reach::Named(names)) => {
                let found = self.0.iter().filter(|(name, _)| names.contains(*name));
                found.for_each(|(name, course)| serving.add(*course, name));
            }
            Some(Reach::All) => self.0.iter().for_each(|(name, course)| serving.add(*course, name)),
        }
        serving
    }
}

/// One that starts or ends is on its way, with whatever proxies it has.
fn should_serve(pod: &Pod) -> bool {
    pod.has != Mode::None && pod.phase == Phase::Running && !pod.terminating
}

/// What the guard does, or would.
fn course(fallback: &Fallback, carrier: Carrier) -> Course {
    match (fallback.on_sidecar_failure(), carrier, fallback.on_fallback_failure()) {
        (OnSidecarFailure::Closed, _, _) => Course::Closed,
        (OnSidecarFailure::Direct, _, _) => Course::Direct,
        (OnSidecarFailure::Fallback, Carrier::Guard, _) => Course::Fallback,
        // A guard that knows of no shared proxy isn't ready.
        (OnSidecarFailure::Fallback, Carrier::Sidecar | Carrier::Nobody, OnFallbackFailure::Direct) => Course::Direct,
        (OnSidecarFailure::Fallback, Carrier::Sidecar | Carrier::Nobody, OnFallbackFailure::Closed) => Course::Closed,
    }
}

// === impl Serving ===

impl Serving {
    /// In the order of their names.
    pub(crate) fn add(&mut self, course: Course, pod: &Arc<str>) {
        let (count, names) = self.0.entry(course).or_default();
        *count += 1;
        if names.len() < NAMED {
            names.push(Arc::clone(pod));
        }
    }

    /// The worst of what happens, by the name that owners give it; `None`: every pod is served as it should be.
    pub(crate) fn worst(&self) -> Option<&'static str> {
        self.0.keys().next().map(|course| course.name())
    }

    pub(crate) fn message(&self) -> String {
        let mut text = String::new();
        for (course, (count, names)) in &self.0 {
            let separator = if text.is_empty() { "" } else { "; " };
            let pods = if *count == 1 { "pod" } else { "pods" };
            let more = if *count > names.len() { ", ..." } else { "" };
            let _ = write!(text, "{separator}{}: {count} {pods} ({}{more})", course.told(), names.join(", "));
        }
        if text.is_empty() { "all pods are served by their own proxies".to_owned() } else { text }
    }
}

// === impl Course ===

impl Course {
    /// As in `onSidecarFailure`.
    fn name(self) -> &'static str {
        match self {
            Self::Closed => "Closed",
            Self::Direct => "Direct",
            Self::Fallback => "Fallback",
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Direct => "without any proxy and policy",
            Self::Fallback => "carried by shared proxies",
        }
    }
}
