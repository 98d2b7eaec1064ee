//! Generated from charts/outrigger by `BLESS=1 cargo test -p outrigger-cli chart`.

/// Paths within the chart and what is there.
#[rustfmt::skip]
pub(super) const FILES: &[(&str, &str)] = &[
    (".helmignore", include_str!("../../../../charts/outrigger/.helmignore")),
    ("Chart.yaml", include_str!("../../../../charts/outrigger/Chart.yaml")),
    ("README.md", include_str!("../../../../charts/outrigger/README.md")),
    ("files/crds/accesspolicies.yaml", include_str!("../../../../charts/outrigger/files/crds/accesspolicies.yaml")),
    ("files/crds/meshconfigs.yaml", include_str!("../../../../charts/outrigger/files/crds/meshconfigs.yaml")),
    ("files/crds/meshroutes.yaml", include_str!("../../../../charts/outrigger/files/crds/meshroutes.yaml")),
    ("files/crds/trafficpolicies.yaml", include_str!("../../../../charts/outrigger/files/crds/trafficpolicies.yaml")),
    ("files/crds/workloads.yaml", include_str!("../../../../charts/outrigger/files/crds/workloads.yaml")),
    ("files/dashboards/mesh.json", include_str!("../../../../charts/outrigger/files/dashboards/mesh.json")),
    ("files/dashboards/services.json", include_str!("../../../../charts/outrigger/files/dashboards/services.json")),
    ("files/rules.yaml", include_str!("../../../../charts/outrigger/files/rules.yaml")),
    ("templates/NOTES.txt", include_str!("../../../../charts/outrigger/templates/NOTES.txt")),
    ("templates/_helpers.tpl", include_str!("../../../../charts/outrigger/templates/_helpers.tpl")),
    ("templates/cert-manager.yaml", include_str!("../../../../charts/outrigger/templates/cert-manager.yaml")),
    ("templates/config.yaml", include_str!("../../../../charts/outrigger/templates/config.yaml")),
    ("templates/controller.yaml", include_str!("../../../../charts/outrigger/templates/controller.yaml")),
    ("templates/crds.yaml", include_str!("../../../../charts/outrigger/templates/crds.yaml")),
    ("templates/identity.yaml", include_str!("../../../../charts/outrigger/templates/identity.yaml")),
    ("templates/monitoring.yaml", include_str!("../../../../charts/outrigger/templates/monitoring.yaml")),
    ("templates/network-policies.yaml", include_str!("../../../../charts/outrigger/templates/network-policies.yaml")),
    ("templates/rbac.yaml", include_str!("../../../../charts/outrigger/templates/rbac.yaml")),
    ("templates/shared.yaml", include_str!("../../../../charts/outrigger/templates/shared.yaml")),
    ("templates/webhooks.yaml", include_str!("../../../../charts/outrigger/templates/webhooks.yaml")),
    ("values-ha.yaml", include_str!("../../../../charts/outrigger/values-ha.yaml")),
    ("values.schema.json", include_str!("../../../../charts/outrigger/values.schema.json")),
    ("values.yaml", include_str!("../../../../charts/outrigger/values.yaml")),
];
