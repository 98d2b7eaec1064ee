//! Objects whose status we keep, whatever their kind.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use kube::{Api, Client, api::DynamicObject, core::ApiResource};
use outrigger_crds::{
    AccessPolicy, MeshConfig, MeshRoute, Object, Status, TrafficPolicy, Workload,
    gateway::{GrpcRoute, HttpRoute, ParentRef, RouteParentStatus, RouteStatus},
};
use outrigger_model::{Finding, Reason};
use serde::Deserialize;

use super::{
    conditions::{self, Facts, PROGRAMMED, ROUTE_PROGRAMMED},
    parents,
};
use crate::cluster::{Derived, Resource};

/// Kinds whose status we keep.
const KINDS: [&str; 7] =
    ["MeshConfig", "MeshRoute", "TrafficPolicy", "AccessPolicy", "Workload", "HTTPRoute", "GRPCRoute"];

/// One object.
#[derive(Debug, Clone)]
pub(crate) struct Subject(Arc<Resource>);

/// What is, or is to be, in an object's status.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    /// Of our own kinds.
    Conditions(Vec<Condition>),
    /// Of a Gateway API route: entries of all controllers, or ours alone where that is said.
    Parents(Vec<RouteParentStatus>),
}

/// All of them.
pub(crate) fn subjects(derived: &Derived) -> impl Iterator<Item = Subject> {
    KINDS.iter().filter_map(|kind| derived.resources.get(kind)).flat_map(|store| store.values().cloned()).map(Subject)
}

/// The object of this origin.
pub(crate) fn find(derived: &Derived, origin: &str) -> Option<Subject> {
    let (kind, name) = origin.split_once('/')?;
    Some(Subject(derived.resources.get(kind)?.get(name)?.clone()))
}

// === impl Subject ===

impl Subject {
    pub(crate) fn metadata(&self) -> &ObjectMeta {
        &self.0.metadata
    }

    pub(crate) fn api_resource(&self) -> ApiResource {
        match self.0.kind {
            "MeshConfig" => ApiResource::erase::<MeshConfig>(&()),
            "MeshRoute" => ApiResource::erase::<MeshRoute>(&()),
            "TrafficPolicy" => ApiResource::erase::<TrafficPolicy>(&()),
            "AccessPolicy" => ApiResource::erase::<AccessPolicy>(&()),
            "Workload" => ApiResource::erase::<Workload>(&()),
            "GRPCRoute" => ApiResource::erase::<GrpcRoute>(&()),
            // The last of KINDS.
            _ => ApiResource::erase::<HttpRoute>(&()),
        }
    }

    /// As findings and effects name it.
    pub(crate) fn origin(&self) -> String {
        self.0.origin()
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.metadata().namespace.as_deref()
    }

    pub(crate) fn version(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or_default()
    }

    pub(crate) fn api(&self, client: Client) -> Api<DynamicObject> {
        let resource = self.api_resource();
        match self.namespace() {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        }
    }

    pub(crate) fn reference(&self) -> ObjectReference {
        let resource = self.api_resource();
        ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            name: Some(self.name().to_owned()),
            namespace: self.namespace().map(str::to_owned),
            uid: self.metadata().uid.clone(),
            ..ObjectReference::default()
        }
    }

    /// The highest epoch that has written its status.
    pub(crate) fn epoch(&self) -> Option<i64> {
        self.0.status.get("leaseTransitions").and_then(serde_json::Value::as_i64)
    }

    /// What its status says now.
    pub(crate) fn told(&self) -> Told {
        if self.is_gateway_route() {
            Told::Parents(RouteStatus::deserialize(&self.0.status).unwrap_or_default().parents)
        } else {
            Told::Conditions(Status::deserialize(&self.0.status).unwrap_or_default().conditions)
        }
    }

    /// What its status should say, `before` being what it says; of a route's parents our entries alone.
    pub(crate) fn tell(&self, facts: Facts<'_>, before: &Told) -> Told {
        match before {
            Told::Parents(before) => {
                let (refs, rules) = self.route().unwrap_or_default();
                Told::Parents(parents::ours(refs, rules, facts, before))
            }
            Told::Conditions(before) => Told::Conditions(conditions::own(facts, self.0.kind == "MeshRoute", before)),
        }
    }

    /// Whether it says what happens to pods without their proxies.
    pub(crate) fn has_failure_policy(&self) -> bool {
        match self.0.object.as_deref() {
            Some(Object::MeshConfig(_)) => true,
            Some(Object::TrafficPolicy(policy)) => {
                policy.spec.on_sidecar_failure.is_some() || policy.spec.on_fallback_failure.is_some()
            }
            _ => false,
        }
    }

    /// What is wrong with the newest version, so that an older one is in force, or none.
    pub(crate) fn refused(&self) -> Vec<Finding> {
        let in_force = if self.0.object.is_some() { "an earlier version is in force" } else { "it has no effect" };
        let refused = self.0.refused.iter().map(|found| {
            let message = format!("{}; {in_force}", found.problem);
            Finding::new(&self.origin(), &found.field, Reason::Invalid, message, &found.remedy)
        });
        refused.collect()
    }

    fn is_gateway_route(&self) -> bool {
        matches!(self.0.kind, "HTTPRoute" | "GRPCRoute")
    }

    /// Parents of a Gateway API route, and how many rules it has.
    fn route(&self) -> Option<(&[ParentRef], usize)> {
        match &**self.0.object.as_ref()? {
            Object::HttpRoute(route) => Some((&route.spec.parent_refs, route.spec.rules.len())),
            Object::GrpcRoute(route) => Some((&route.spec.parent_refs, route.spec.rules.len())),
            _ => None,
        }
    }
}

fn is_programmed(condition: &Condition) -> bool {
    matches!(condition.type_.as_str(), PROGRAMMED | ROUTE_PROGRAMMED)
}

// === impl Told ===

impl Told {
    /// The whole status that comes of ours over what is there.
    pub(crate) fn over(&self, before: &Self) -> Self {
        match (self, before) {
            (Self::Parents(ours), Self::Parents(before)) => Self::Parents(parents::merge(before, ours)),
            (ours, _) => ours.clone(),
        }
    }

    /// Whether writing this over `before` would change anything. Conditions are a map by type: their order says nothing.
    pub(crate) fn is_news(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Conditions(new), Self::Conditions(old)) => !new.iter().all(|condition| old.contains(condition)),
            (new, old) => new.over(old) != *old,
        }
    }

    /// Whether only words would change, no condition's status or reason.
    pub(crate) fn is_wording(&self, before: &Self) -> bool {
        let after = self.over(before);
        let plain = |c: &Condition| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.observed_generation);
        let [mut new, mut old] = [&after, before].map(|told| told.ours().iter().map(|c| plain(c)).collect::<Vec<_>>());
        new.sort();
        old.sort();
        new == old
    }

    /// Whether all proxies had this generation of the object.
    pub(crate) fn was_programmed(&self, generation: Option<i64>) -> bool {
        let ours = self.ours();
        let mut programmed = ours.iter().filter(|c| is_programmed(c)).peekable();
        programmed.peek().is_some() && programmed.all(|c| c.status == "True" && c.observed_generation == generation)
    }

    /// Says of proxies what `before` does.
    pub(crate) fn keep_programmed(&mut self, before: &Self) {
        let keep = |conditions: &mut [Condition], before: &[Condition]| {
            for condition in conditions.iter_mut().filter(|c| is_programmed(c)) {
                if let Some(old) = before.iter().find(|old| old.type_ == condition.type_) {
                    condition.clone_from(old);
                }
            }
        };
        match (self, before) {
            (Self::Conditions(conditions), Self::Conditions(before)) => keep(conditions, before),
            (Self::Parents(entries), Self::Parents(before)) => {
                for entry in entries {
                    let old = before.iter().find(|old| parents::is_ours(old) && old.parent_ref == entry.parent_ref);
                    keep(&mut entry.conditions, old.map_or(&[], |old| &old.conditions));
                }
            }
            (Self::Conditions(_), Self::Parents(_)) | (Self::Parents(_), Self::Conditions(_)) => {}
        }
    }

    /// All conditions of ours, whichever parent they are about.
    pub(crate) fn ours(&self) -> Vec<&Condition> {
        match self {
            Self::Conditions(conditions) => conditions.iter().collect(),
            Self::Parents(entries) => {
                entries.iter().filter(|entry| parents::is_ours(entry)).flat_map(|entry| &entry.conditions).collect()
            }
        }
    }
}
