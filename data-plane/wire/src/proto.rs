//! Protobuf messages, generated from `proto/` and committed (`tests/generated.rs` keeps them current).

#![allow(unreachable_pub, unused_qualifications, clippy::all, clippy::unwrap_used, clippy::too_many_lines)]

/// Our compact configuration types.
pub mod config {
    include!("generated/outrigger.config.v1alpha1.rs");
}

/// The certificate authority's service.
pub mod ca {
    include!("generated/outrigger.ca.v1alpha1.rs");
}

/// Pods that are about to end.
pub mod departure {
    include!("generated/outrigger.departure.v1alpha1.rs");
}

/// What is wrong with a pod.
pub mod trouble {
    include!("generated/outrigger.trouble.v1alpha1.rs");
}

/// The xDS transport (Envoy's `service.discovery.v3`), wire-compatible subset.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                include!("generated/envoy.config.core.v3.rs");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                include!("generated/envoy.service.discovery.v3.rs");
            }
        }
    }
}

/// `google.rpc.Status`, the subset that xDS uses.
pub mod google {
    pub mod rpc {
        include!("generated/google.rpc.rs");
    }
}

pub use envoy::service::discovery::v3 as discovery;
