//! Metrics as OpenMetrics text: names, help and labels of every family.

use std::{collections::HashMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::{MetricType, exemplar::Exemplar},
};

use super::{
    super::series::{
        BOUNDS, CODES, Direction, FallbackReason, GRPC_CODES, HttpSeries, Listener, OTHER, Side, TcpSeries, Total,
        UpstreamSeries,
    },
    Families,
};

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Families {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_http(&mut out)?;
        self.encode_tcp(&mut out)?;
        self.encode_upstream(&mut out)?;
        self.encode_connections(&mut out)?;
        self.encode_fallback(&mut out)?;
        self.encode_policy(&mut out)?;
        self.encode_process(&mut out)
    }
}

// === impl Families ===

impl Families {
    fn encode_http(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let each = |visit: &mut dyn FnMut(Labels<'_>, &HttpSeries) -> fmt::Result| {
            for direction in Direction::ALL {
                for ([service, route, peer], series) in &*self.http[direction as usize].lock() {
                    let labels =
                        vec![("direction", direction.as_str()), ("service", service), ("route", route), ("peer", peer)];
                    visit(labels, series)?;
                }
            }
            Ok(())
        };

        let mut family = counter(out, "outrigger_http_requests", "Requests that have ended")?;
        each(&mut |labels, series| {
            for (at, total) in series.codes.iter().enumerate() {
                let code = CODES.get(at).map_or(OTHER.to_owned(), u16::to_string);
                add_nonzero(&mut family, &labels, ("code", &code), total)?;
            }
            Ok(())
        })?;

        let mut family = counter(out, "outrigger_grpc_requests", "gRPC requests that have ended")?;
        each(&mut |labels, series| {
            for (at, total) in series.grpc.get().into_iter().flat_map(|totals| totals.iter().enumerate()) {
                let status = if at < GRPC_CODES { at.to_string() } else { OTHER.to_owned() };
                add_nonzero(&mut family, &labels, ("grpc_status", &status), total)?;
            }
            Ok(())
        })?;

        let name = "outrigger_http_request_duration_seconds";
        let mut family =
            out.encode_descriptor(name, "Time from request head to last byte", None, MetricType::Histogram)?;
        each(&mut |labels, series| {
            let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(series.duration.buckets.iter().map(Total::get)).collect();
            let count = buckets.iter().map(|(_, n)| n).sum();
            family.encode_family(&labels)?.encode_histogram(
                series.duration.sum(),
                count,
                &buckets,
                None::<&HashMap<usize, Exemplar<Labels<'static>, f64>>>,
            )
        })?;

        let mut family = counter(out, "outrigger_http_request_bytes", "Bytes of request bodies")?;
        each(&mut |labels, series| add(&mut family, &labels, &series.request_bytes))?;
        let mut family = counter(out, "outrigger_http_response_bytes", "Bytes of response bodies")?;
        each(&mut |labels, series| add(&mut family, &labels, &series.response_bytes))
    }

    fn encode_tcp(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let each = |visit: &mut dyn FnMut(Labels<'_>, &TcpSeries) -> fmt::Result| {
            for direction in Direction::ALL {
                for ([service, peer], series) in &*self.tcp[direction as usize].lock() {
                    visit(vec![("direction", direction.as_str()), ("service", service), ("peer", peer)], series)?;
                }
            }
            Ok(())
        };
        let mut family = counter(out, "outrigger_tcp_connections_opened", "Opaque connections")?;
        each(&mut |labels, series| add(&mut family, &labels, &series.opened))?;
        let mut family = gauge(out, "outrigger_tcp_connections_active", "Opaque connections that are open")?;
        each(&mut |labels, series| family.encode_family(&labels)?.encode_gauge(&series.active.get()))?;
        let mut family = counter(out, "outrigger_tcp_sent_bytes", "Bytes from callers")?;
        each(&mut |labels, series| add(&mut family, &labels, &series.sent))?;
        let mut family = counter(out, "outrigger_tcp_received_bytes", "Bytes to callers")?;
        each(&mut |labels, series| add(&mut family, &labels, &series.received))
    }

    fn encode_upstream(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Field = fn(&UpstreamSeries) -> &Total;
        let fields: [(&str, &str, Field); 3] = [
            ("outrigger_upstream_connect_failures", "Connections that couldn't be made", |s| &s.connect_failures),
            ("outrigger_upstream_retries", "Tries after the first", |s| &s.retries),
            ("outrigger_upstream_retries_over_budget", "Retries that the budget forbade", |s| &s.retries_over_budget),
        ];
        let series = self.upstream.lock();
        for (name, help, field) in fields {
            let mut family = counter(out, name, help)?;
            for ([service], series) in &*series {
                add(&mut family, &vec![("service", service)], field(series))?;
            }
        }
        Ok(())
    }

    fn encode_connections(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = counter(out, "outrigger_connections_opened", "Connections accepted")?;
        for listener in Listener::ALL {
            add(&mut family, &vec![("listener", listener.as_str())], &self.connections[listener as usize].opened)?;
        }
        let mut family = gauge(out, "outrigger_connections_active", "Accepted connections that are open")?;
        for listener in Listener::ALL {
            let active = self.connections[listener as usize].active();
            family.encode_family(&vec![("listener", listener.as_str())])?.encode_gauge(&active)?;
        }
        gauge(out, "outrigger_connections_limit", "Accepted connections that may be open at once")?
            .encode_gauge(&self.connections_limit.get())?;
        let mut family = counter(out, "outrigger_connections_shed", "Connections turned away, as too many were open")?;
        add(&mut family, &Labels::new(), &self.connections_shed)?;
        let mut family = counter(out, "outrigger_tls_handshakes", "TLS handshakes that were completed")?;
        for side in Side::ALL {
            add(&mut family, &vec![("side", side.as_str())], &self.tls[side as usize].handshakes)?;
        }
        let mut family = counter(out, "outrigger_tls_handshake_failures", "TLS handshakes that failed")?;
        for side in Side::ALL {
            add(&mut family, &vec![("side", side.as_str())], &self.tls[side as usize].failures)?;
        }
        Ok(())
    }

    fn encode_fallback(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = counter(out, "outrigger_fallback_connections", "Connections through a shared proxy")?;
        for direction in Direction::ALL {
            for reason in FallbackReason::ALL {
                let labels = vec![("direction", direction.as_str()), ("reason", reason.as_str())];
                add(&mut family, &labels, &self.fallback[direction as usize][reason as usize])?;
            }
        }
        let mut family = counter(out, "outrigger_fallback_failures", "Connections that no shared proxy took")?;
        for direction in Direction::ALL {
            let total = &self.fallback_failures[direction as usize];
            add(&mut family, &vec![("direction", direction.as_str())], total)?;
        }
        Ok(())
    }

    fn encode_policy(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let series = self.policy.lock();
        let mut family = counter(out, "outrigger_access_denied", "Requests and connections denied")?;
        for ([policy], series) in &*series {
            add(&mut family, &vec![("policy", policy)], &series.denied)?;
        }
        let mut family = counter(out, "outrigger_access_audited", "Requests and connections that a policy audits")?;
        for ([policy], series) in &*series {
            add(&mut family, &vec![("policy", policy)], &series.audited)?;
        }
        Ok(())
    }

    fn encode_process(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let none = Labels::new();
        gauge(out, "outrigger_build_info", "1, labelled with the version")?
            .encode_family(&vec![("version", env!("CARGO_PKG_VERSION"))])?
            .encode_gauge(&1_i64)?;
        gauge(out, "outrigger_memory_level", "1: connections are shed, 2: they are ended, as memory runs out; else 0")?
            .encode_gauge(&self.memory_level.get())?;
        gauge(out, "outrigger_config_generation", "Generation of the configuration in force")?
            .encode_gauge(&self.config_generation.get())?;
        gauge(out, "outrigger_certificate_expiry_timestamp_seconds", "When the certificate ends; 0 without one")?
            .encode_gauge(&self.certificate_expiry.get())?;
        let mut family = counter(out, "outrigger_access_log_dropped", "Access log records without room")?;
        add(&mut family, &none, &self.access_log_dropped)?;
        Ok(())
    }
}

fn counter<'s>(out: &'s mut DescriptorEncoder<'_>, name: &'s str, help: &str) -> Result<MetricEncoder<'s>, fmt::Error> {
    out.encode_descriptor(name, help, None, MetricType::Counter)
}

fn gauge<'s>(out: &'s mut DescriptorEncoder<'_>, name: &'s str, help: &str) -> Result<MetricEncoder<'s>, fmt::Error> {
    out.encode_descriptor(name, help, None, MetricType::Gauge)
}

fn add(family: &mut MetricEncoder<'_>, labels: &Labels<'_>, total: &Total) -> fmt::Result {
    let no_exemplar = None::<&Exemplar<Labels<'static>, f64>>;
    if labels.is_empty() {
        return family.encode_counter(&total.get(), no_exemplar);
    }
    family.encode_family(labels)?.encode_counter(&total.get(), no_exemplar)
}

/// Most codes never occur, so their series aren't shown.
fn add_nonzero(
    family: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    last: (&'static str, &str),
    total: &Total,
) -> fmt::Result {
    if total.get() == 0 {
        return Ok(());
    }
    let mut labels = labels.clone();
    labels.push(last);
    add(family, &labels, total)
}
