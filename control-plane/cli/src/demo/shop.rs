//! The shop: its pods, its resources as a user writes them, and where to call what.

use std::collections::BTreeSet;

use anyhow::{Error, Result};
use outrigger_testbed::{PodSpec, Spec, call::Target};

pub(crate) const VISITOR: &str = "shop/visitor";
pub(crate) const FRONT: &str = "shop/front";
pub(crate) const CATALOG_V1: &str = "shop/catalog-v1";
pub(crate) const CATALOG_V2: &str = "shop/catalog-v2";
const STORE: &str = "shop/store";
/// One of the two.
pub(crate) const SHARED: &str = "outrigger-system/shared-0";

/// Pods of the shop.
pub(crate) const PODS: usize = 6;

/// The page for which the front calls everyone else.
pub(crate) const FRONT_SHOP: &str = "http://10.96.0.10:80/shop";
pub(crate) const CATALOG: &str = "http://10.96.0.20:80/";
pub(crate) const CATALOG_V1_ONLY: &str = "http://10.96.0.21:80/";
pub(crate) const CART: &str = "grpc://10.96.0.30:9090";
pub(crate) const STORE_DATA: &str = "store://10.96.0.40:6379";

pub(crate) const ROUTE: (&str, &str) = ("catalog-route.yaml", include_str!("../../demo/catalog-route.yaml"));
pub(crate) const PREVIEW: (&str, &str) = ("catalog-preview.yaml", include_str!("../../demo/catalog-preview.yaml"));
pub(crate) const NO_VISITORS: (&str, &str) = ("no-visitors.yaml", include_str!("../../demo/no-visitors.yaml"));
const SERVICES: (&str, &str) = ("services.yaml", include_str!("../../demo/services.yaml"));

pub(crate) fn spec() -> Spec {
    let front = format!(
        "outrigger-testapp http --name front --upstream catalog={CATALOG} --upstream cart={CART} \
         --upstream store={STORE_DATA}"
    );
    let catalog = |version: &str| {
        PodSpec::new(&format!("shop/catalog-{version}"))
            .label("app", "catalog")
            .label("version", version)
            .app(&format!("outrigger-testapp http --name catalog --version {version}"))
    };
    let pods = vec![
        PodSpec::new(VISITOR),
        PodSpec::new(FRONT).app(&front),
        catalog("v1"),
        catalog("v2"),
        PodSpec::new("shop/cart").app("outrigger-testapp grpc"),
        PodSpec::new(STORE).app("outrigger-testapp store"),
    ];
    let config = [SERVICES, ROUTE, PREVIEW].map(|(file, yaml)| (file.to_owned(), yaml.to_owned()));
    Spec { pods, config: config.into(), shared: 2 }
}

pub(crate) fn target(text: &str) -> Result<Target> {
    text.parse().map_err(Error::msg)
}

/// The route with other weights.
pub(crate) fn split(v1: u32, v2: u32) -> String {
    ROUTE.1.replace("weight: 90", &format!("weight: {v1}")).replace("weight: 10", &format!("weight: {v2}"))
}

/// The preview by another version.
pub(crate) fn preview(version: &str) -> String {
    PREVIEW.1.replace("name: catalog-v1", &format!("name: catalog-{version}"))
}

/// Names of all pods that have a guard and a sidecar.
pub(crate) fn names() -> BTreeSet<String> {
    spec().pods.into_iter().map(|pod| pod.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_demo_writes_is_valid() {
        assert_eq!(names().len(), PODS);
        assert!(split(50, 50).contains("weight: 50") && !split(50, 50).contains("weight: 90"));
        assert!(preview("v2").contains("name: catalog-v2") && !preview("v2").contains("name: catalog-v1"));
        let files = [SERVICES, ROUTE, PREVIEW, NO_VISITORS].map(|(file, yaml)| (file, yaml.to_owned()));
        for (file, yaml) in files.into_iter().chain([("split", split(1, 2)), ("preview", preview("v2"))]) {
            let (loaded, problems) = outrigger_crds::load::parse(file, &yaml);
            assert!(problems.is_empty() && !loaded.is_empty(), "{file}: {problems:?}");
        }
    }
}
