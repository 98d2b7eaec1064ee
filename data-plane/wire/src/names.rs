//! Names and numbers that both planes and their users share.

/// The group of our Kubernetes resources, and the prefix of our labels and annotations.
pub const GROUP: &str = "outrigger.dev";

/// Enrolment of a namespace or pod: `sidecar`, `shared` or `none`.
pub const MODE_LABEL: &str = "outrigger.dev/mode";

/// Namespace of the mesh's own parts.
pub const SYSTEM_NAMESPACE: &str = "outrigger-system";

/// Service and service account of the shared proxies, in [`SYSTEM_NAMESPACE`].
pub const SHARED_NAME: &str = "outrigger-shared";

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
    /// The controller's gRPC port: xDS and certificates.
    pub const CONTROLLER: u16 = 15010;

    /// Whether a pod's port belongs to its proxies. Nobody reaches those through a proxy.
    pub const fn is_own(port: u16) -> bool {
        matches!(port, OUTBOUND | INBOUND | MESH | ADMIN | GUARD_ADMIN)
    }
}

/// User ID of our proxies in a pod; what it sends isn't redirected.
pub const PROXY_UID: u32 = 1337;

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
