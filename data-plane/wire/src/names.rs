//! Names and numbers that both planes and their users share.

/// The group of our Kubernetes resources, and the prefix of our labels and annotations.
pub const GROUP: &str = "outrigger.dev";

/// Enrolment of a namespace or pod: `sidecar`, `shared` or `none`.
pub const MODE_LABEL: &str = "outrigger.dev/mode";

/// What the injector says on a pod that it has changed: the version of the mesh that did.
pub const INJECTED_ANNOTATION: &str = "outrigger.dev/injected";

/// Prefix of the annotations by which a pod's owner sets what its proxies do, such as `outrigger.dev/skip-inbound-ports`.
pub const ANNOTATION_PREFIX: &str = "outrigger.dev/";

/// Namespace of the mesh's own parts.
pub const SYSTEM_NAMESPACE: &str = "outrigger-system";

/// Service and service account of the shared proxies, in [`SYSTEM_NAMESPACE`].
pub const SHARED_NAME: &str = "outrigger-shared";

/// Service, service account, Lease and cluster role of the controller, in [`SYSTEM_NAMESPACE`].
pub const CONTROLLER_NAME: &str = "outrigger-controller";

/// Secret in [`SYSTEM_NAMESPACE`] with the root's certificate (`tls.crt`) and key (`tls.key`).
pub const ROOT_SECRET: &str = "outrigger-root";

/// ConfigMap in every namespace with meshed pods: the roots, PEM, under [`ROOT_FILE`].
pub const TRUST_CONFIG_MAP: &str = "outrigger-trust";

/// Key in [`TRUST_CONFIG_MAP`], and the name of the file that it is mounted as.
pub const ROOT_FILE: &str = "root.pem";

/// On [`TRUST_CONFIG_MAP`] in [`SYSTEM_NAMESPACE`]: how far a change of the root has come, for replicas and for people.
pub const ROTATION_ANNOTATION: &str = "outrigger.dev/root-rotation";

/// Key in the metadata of a proxy's xDS node: the root that its certificate leads to (`IssueResponse.anchor`).
pub const ANCHOR_METADATA: &str = "outrigger.dev/anchor";

/// Audience of the service-account tokens by which proxies prove who they are.
pub const TOKEN_AUDIENCE: &str = "outrigger.dev";

/// Name by which the controller signs what it says of routes (`controllerName`).
pub const CONTROLLER_ID: &str = "outrigger.dev/controller";

/// Containers of ours in a pod.
pub mod containers {
    /// Init container that installs the redirection and ends.
    pub const REDIRECT: &str = "outrigger-redirect";
    pub const GUARD: &str = "outrigger-guard";
    pub const SIDECAR: &str = "outrigger-sidecar";
}

/// gRPC metadata of a proxy's call for configuration: `system_version_info` of the last that it has taken in. No replica
/// should answer with what is older.
pub const NOT_OLDER_THAN: &str = "outrigger-not-older-than";

/// Default trust domain.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// TCP ports inside a meshed pod.
pub mod ports {
    /// Redirected outbound traffic.
    pub const OUTBOUND: u16 = 15001;
    /// Redirected inbound plaintext.
    pub const INBOUND: u16 = 15006;
    /// mTLS between proxies, and between guards and shared proxies.
    pub const MESH: u16 = 15008;
    /// The sidecar's admin interface, loopback only.
    pub const ADMIN: u16 = 15020;
    /// The guard's admin interface, loopback only.
    pub const GUARD_ADMIN: u16 = 15021;
    /// Health, readiness and metrics of a sidecar or shared proxy, on the pod's own address; read only.
    pub const HEALTH: u16 = 15022;
    /// As [`HEALTH`], of the guard.
    pub const GUARD_HEALTH: u16 = 15023;
    /// The controller's gRPC port: xDS and certificates.
    pub const CONTROLLER: u16 = 15010;
    /// The controller's admission webhooks, HTTPS.
    pub const WEBHOOK: u16 = 15017;
    /// The controller's health, readiness and metrics, on the pod's own address; read only.
    pub const CONTROLLER_HEALTH: u16 = 15012;

    /// Whether a pod's port belongs to its proxies. Nobody reaches those through a proxy.
    pub const fn is_own(port: u16) -> bool {
        matches!(port, OUTBOUND | INBOUND | MESH | ADMIN | GUARD_ADMIN | HEALTH | GUARD_HEALTH)
    }
}

/// User ID of our proxies in a pod; what it sends isn't redirected, but for calls of [`canary`].
pub const PROXY_UID: u32 = 1337;

/// What a guard calls to see whether its pod's traffic is still captured. Nothing is there: the pod's own proxies answer,
/// or nobody.
pub mod canary {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The dummy address of RFC 7600 section 4.8, which nobody may route.
    pub const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
    /// Of the prefix of RFC 6666, all of which is discarded.
    pub const V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8);
    pub const PORT: u16 = 15024;
    /// Who answers is one of ours.
    pub const ANSWER: &[u8] = b"outrigger\n";
}

/// Type URLs of the configuration resources.
pub mod type_url {
    pub const SERVICE: &str = "type.googleapis.com/outrigger.config.v1alpha1.Service";
    pub const ENDPOINT: &str = "type.googleapis.com/outrigger.config.v1alpha1.Endpoint";
    pub const INBOUND: &str = "type.googleapis.com/outrigger.config.v1alpha1.Inbound";
    pub const TRUST: &str = "type.googleapis.com/outrigger.config.v1alpha1.Trust";

    /// In the order in which a client must apply them: trust before what needs it, endpoints before services
    /// that route to them.
    pub const ALL: [&str; 4] = [TRUST, INBOUND, ENDPOINT, SERVICE];
}

/// ALPN protocol names on [`ports::MESH`].
pub mod alpn {
    /// HTTP, whatever version the app spoke.
    pub const H2: &[u8] = b"h2";
    /// One opaque TCP connection behind a [`TcpHeader`](crate::tunnel::TcpHeader).
    pub const TCP: &[u8] = b"outrigger-tcp/1";
    /// From a guard to a shared proxy: one captured connection behind a [`GuardHeader`](crate::tunnel::GuardHeader).
    pub const GUARD: &[u8] = b"outrigger-guard/1";
    /// From a shared proxy back to a pod: one connection to its app behind a [`TcpHeader`](crate::tunnel::TcpHeader).
    pub const DELIVER: &[u8] = b"outrigger-deliver/1";
}

/// HTTP headers between proxies. All begin with [`PREFIX`](headers::PREFIX) and are stripped from every peer
/// that may not send them.
pub mod headers {
    pub const PREFIX: &str = "outrigger-";
    /// Destination port on the peer's pod; from any meshed peer.
    pub const PORT: &str = "outrigger-port";
    /// The version the caller spoke, if it wasn't HTTP/2: `1.1` or `1.0`; from any meshed peer.
    pub const PROTO: &str = "outrigger-proto";
    /// The method of a request that travels as an extended CONNECT (RFC 8441); from any meshed peer.
    pub const METHOD: &str = "outrigger-method";
    /// SPIFFE ID of the caller that a shared proxy acts for ("-" for an unauthenticated one); from shared proxies only.
    pub const CALLER: &str = "outrigger-caller";
    /// Address of that caller; from shared proxies only.
    pub const CALLER_ADDRESS: &str = "outrigger-caller-address";
    /// Status of an answer to an extended CONNECT that isn't the agreement to it; from any meshed peer.
    pub const STATUS: &str = "outrigger-status";
}

/// Alias under which a service is known by one of its addresses.
pub fn address_alias(address: std::net::IpAddr) -> String {
    format!("@{address}")
}

/// Name of the glob collection of a service's endpoints.
pub fn endpoint_glob(service: &str) -> String {
    format!("{service}/*")
}

/// Abstract unix socket on which a guard hands listening sockets over (without the leading NUL).
pub const GUARD_SOCKET: &str = "outrigger-guard";

/// Abstract unix socket on which a sidecar gives listening sockets back to a restarted guard (without the leading
/// NUL).
pub const SIDECAR_SOCKET: &str = "outrigger-sidecar";
