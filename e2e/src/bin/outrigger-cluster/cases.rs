//! All cases, in the order in which they run.

use crate::Case;

mod admission;
mod chaos;
mod control_plane;
mod failure;
mod in_place;
mod install;
mod objects;
mod podinfo;
mod policy;
mod pools;
mod root;
mod shop;
mod survival;
mod terminal;
mod upgrade;
mod workloads;

pub(crate) fn all() -> Vec<Case> {
    [
        install::FIRST,
        admission::CASES,
        workloads::CASES,
        objects::CASES,
        policy::CASES,
        terminal::CASES,
        failure::CASES,
        pools::CASES,
        survival::CASES,
        chaos::CASES,
        control_plane::CASES,
        root::CASES,
        in_place::CASES,
        upgrade::CASES,
        install::LAST,
    ]
    .concat()
}

/// A case that needs only what every user of a cluster has.
const fn case(name: &'static str, run: fn(&crate::Cluster) -> anyhow::Result<()>) -> Case {
    Case { name, needs_nodes: false, long: false, run }
}

/// One that waits for minutes.
const fn long(name: &'static str, run: fn(&crate::Cluster) -> anyhow::Result<()>) -> Case {
    Case { name, needs_nodes: false, long: true, run }
}

/// A case that looks at nodes from outside Kubernetes.
const fn on_nodes(name: &'static str, run: fn(&crate::Cluster) -> anyhow::Result<()>) -> Case {
    Case { name, needs_nodes: true, long: false, run }
}
