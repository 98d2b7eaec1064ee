//! Changes a route again and again, and says when the API server had answered: run inside the cluster's network by the
//! case that measures how soon callers see it.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use outrigger_testbed::now_us;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// One change. The instants are [`now_us`]'s.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    /// Of the app that all calls go to from now on.
    pub(crate) version: String,
}

/// Between two changes: each must have come to rest, and its status been written.
const PAUSE: Duration = Duration::from_millis(250);

/// Sends all calls of the shop's catalog to one of its versions and the other in turn. One line of JSON per change.
pub(crate) fn make(count: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    runtime.block_on(async {
        let client = Client::try_default().await.context("the API server's client")?;
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
        let routes: Api<DynamicObject> = Api::namespaced_with(client, "shop", &ApiResource::from_gvk(&kind));
        for change in 0..count {
            let version = if change % 2 == 0 { "v2" } else { "v1" };
            let rules = json!([{ "backendRefs": [{ "name": format!("catalog-{version}"), "port": 80 }] }]);
            let patch = Patch::Merge(json!({ "spec": { "rules": rules } }));
            let asked = now_us();
            routes.patch("catalog", &PatchParams::default(), &patch).await.context("changing HTTPRoute catalog")?;
            let change = Change { asked, answered: now_us(), version: version.to_owned() };
            println!("{}", serde_json::to_string(&change)?);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    })
}
