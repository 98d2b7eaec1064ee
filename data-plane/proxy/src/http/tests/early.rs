//! Answers that are made here, while the request's body is still to come and looks like a request (CVE-2025-4366).

use wire::{
    DirectResponse, Fault, Redirect,
    filter::Kind::{DirectResponse as Answer, Fault as Fails, Redirect as Redirects},
};

use super::*;

const APP: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_body_is_no_request_whoever_answers_early() {
    within(async {
        let nobody = with_routes(wire::RouteTable { port: 80, ..wire::RouteTable::default() });
        let no_backend = with_filter(Answer(DirectResponse { status: 200, ..DirectResponse::default() }));
        let no_backend = without_filters(no_backend);
        let fault = Fault { abort_status: 503, abort_share_ppm: 1_000_000, ..Fault::default() };
        let redirect = Redirect { hostname: "b".into(), status: 302, ..Redirect::default() };
        let direct = DirectResponse { status: 200, body: "here".into(), ..DirectResponse::default() };
        let plain = || service(wire::Protocol::Http);
        let post = "POST /x HTTP/1.1\r\nhost: a\r\n";
        for (status, way, service, head) in [
            (302, Way::Out, with_filter(Redirects(redirect)), post),
            (200, Way::Out, with_filter(Answer(direct)), post),
            (503, Way::Out, with_filter(Fails(fault)), post),
            (404, Way::Out, nobody, post),
            (500, Way::Out, no_backend, post),
            (503, Way::Away, plain(), post),
            (400, Way::Out, plain(), "POST /a/%00 HTTP/1.1\r\nhost: a\r\n"),
            (400, Way::In, plain(), "POST /a/%00 HTTP/1.1\r\nhost: a\r\n"),
            (400, Way::Out, plain(), "POST /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n"),
            (405, Way::Out, plain(), "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n"),
            (405, Way::In, plain(), "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n"),
        ] {
            let rig = Rig::http1(service, APP).await;
            let (length, size) = (SMUGGLED.len(), format!("{:x}", SMUGGLED.len()));
            for (name, most, body) in [
                ("length", 2, format!("content-length: {length}\r\n\r\n{SMUGGLED}")),
                ("chunked", 2, format!("transfer-encoding: chunked\r\n\r\n{size}\r\n{SMUGGLED}\r\n0\r\n\r\n")),
                ("expected", 2, format!("expect: 100-continue\r\ncontent-length: {length}\r\n\r\n{SMUGGLED}")),
                ("longer than sent", 1, format!("content-length: 100000\r\n\r\n{SMUGGLED}")),
            ] {
                let answers = rig.talk(way, &[head, &body, LAST].concat()).await;
                let said: Vec<_> = answers.match_indices("HTTP/1.1 ").collect();
                let case = format!("{status}, {way:?}, {name}: {answers:?}");
                assert!(answers.starts_with(&format!("HTTP/1.1 {status} ")), "{case}");
                assert!((1..=most).contains(&said.len()), "{case}");
                let seen = rig.seen.take();
                assert!(seen.iter().all(|head| head.starts_with("get /last ")) && seen.len() < most, "{case} {seen:?}");
            }
        }
    })
    .await;
}

fn with_routes(table: wire::RouteTable) -> wire::Service {
    wire::Service { route_tables: vec![table], ..service(wire::Protocol::Http) }
}

fn without_filters(mut service: wire::Service) -> wire::Service {
    service.route_tables[0].rules[0].filters.clear();
    service
}
