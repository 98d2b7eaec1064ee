//! What is recorded of traffic: [`metrics`], one [`access_log`] record per request or connection, and the W3C
//! [`trace`] context that is passed on. Recording takes no lock and formats nothing.

pub mod access_log;
pub mod metrics;
mod series;
pub mod trace;

pub use access_log::{AccessLog, Record};
pub use metrics::Metrics;
pub use series::{
    Connection, ConnectionSeries, Direction, FallbackReason, HttpSeries, Level, Listener, PolicySeries, Side,
    TcpConnection, TcpSeries, TlsSeries, Total, UpstreamSeries,
};
