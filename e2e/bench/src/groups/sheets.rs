//! The tables of each group: flat, titles and columns alone.

use crate::sheet::{
    Column, Sheet,
    Show::{Added, AddedRatio, Median, Ratio, Spread},
    column,
};

const CPU: Column = column("µs CPU per request", "cpu", Spread, 1);
const RATE: Column = column("requests/s", "rate", Median, 0);
const OTHERS: Column = column("others' CPU", "others", Median, 2);
const P50: Column = column("p50 µs", "p50", Median, 0);
const P99: Column = column("p99 µs", "p99", Median, 0);
const ADDED_P50: Column = column("added p50", "p50", Added("no proxy"), 0);
const ADDED_P99: Column = column("added p99", "p99", Added("no proxy"), 0);

pub(super) const HTTP1: &[Sheet] = &[
    Sheet {
        table: "c32",
        title: "32 connections, proxies alone on a CPU",
        note: "",
        columns: &[
            CPU,
            column("× nginx", "cpu", Ratio("nginx"), 2),
            column("× Envoy", "cpu", Ratio("Envoy"), 2),
            RATE,
            OTHERS,
        ],
    },
    Sheet {
        table: "c1",
        title: "One connection, everything on one CPU",
        note: "",
        columns: &[
            P50,
            ADDED_P50,
            column("× nginx's", "p50", AddedRatio("no proxy", "nginx"), 2),
            column("× Envoy's", "p50", AddedRatio("no proxy", "Envoy"), 2),
            P99,
            ADDED_P99,
            CPU,
            OTHERS,
        ],
    },
];

pub(super) const PAIR: &[Sheet] = &[
    Sheet {
        table: "c32",
        title: "32 connections, proxies alone on a CPU",
        note: "CPU time is that of both proxies of a pair.",
        columns: &[
            CPU,
            column("× nginx hop", "cpu", Ratio("nginx"), 2),
            column("× pair of Envoys", "cpu", Ratio("pair of Envoys"), 2),
            RATE,
            OTHERS,
        ],
    },
    Sheet {
        table: "c1",
        title: "One connection, everything on one CPU",
        note: "",
        columns: &[
            P50,
            ADDED_P50,
            column("× nginx's", "p50", AddedRatio("no proxy", "nginx"), 2),
            column("× Envoys'", "p50", AddedRatio("no proxy", "pair of Envoys"), 2),
            P99,
            ADDED_P99,
            column("× nginx's", "p99", AddedRatio("no proxy", "nginx"), 2),
            column("× Envoys'", "p99", AddedRatio("no proxy", "pair of Envoys"), 2),
            CPU,
            OTHERS,
        ],
    },
];

pub(super) const HTTP2: &[Sheet] = &[
    Sheet {
        table: "c32",
        title: "4 connections of 8 requests each, proxies alone on a CPU",
        note: "h2c in and out. nginx speaks no HTTP/2 to backends, but for gRPC.",
        columns: &[CPU, column("× Envoy", "cpu", Ratio("Envoy"), 2), RATE, OTHERS],
    },
    Sheet {
        table: "c1",
        title: "One request at a time, everything on one CPU",
        note: "",
        columns: &[
            P50,
            ADDED_P50,
            column("× Envoy's", "p50", AddedRatio("no proxy", "Envoy"), 2),
            P99,
            ADDED_P99,
            CPU,
            OTHERS,
        ],
    },
];

const GRPC_HOP: &[Column] = &[CPU, column("× Envoy", "cpu", Ratio("Envoy"), 2), RATE, OTHERS];
const GRPC_PAIR: &[Column] = &[CPU, column("× pair of Envoys", "cpu", Ratio("pair of Envoys"), 2), RATE, OTHERS];

pub(super) const GRPC: &[Sheet] = &[
    Sheet {
        table: "unary",
        title: "Unary, through one proxy",
        note: "4 connections of 8 calls each, proxies alone on a CPU; of streams, 8 of each connection with one message under \
               way, which is the request.",
        columns: GRPC_HOP,
    },
    Sheet { table: "unary-pair", title: "Unary, through pairs with mutual TLS", note: "", columns: GRPC_PAIR },
    Sheet { table: "stream", title: "Streaming, through one proxy", note: "", columns: GRPC_HOP },
    Sheet { table: "stream-pair", title: "Streaming, through pairs with mutual TLS", note: "", columns: GRPC_PAIR },
];

pub(super) const TCP: &[Sheet] = &[
    Sheet {
        table: "plain",
        title: "Plain, through one proxy",
        note: "An echo. 1 B: one connection, everything on one CPU, round trip. 1 KB: 32 connections, CPU time per round trip. \
               Then bytes (there and back, once) per second of the proxies' CPU time: in round trips of 4 connections, and in \
               one stream that waits for nothing.",
        columns: TCP_HOP,
    },
    Sheet { table: "mtls", title: "Over mutual TLS, through pairs", note: "", columns: TCP_PAIR },
];

const fn tcp(beside: Column) -> [Column; 6] {
    [
        column("1 B p50 µs", "p50 1", Median, 0),
        column("1 KB µs CPU", "cpu 1024", Spread, 1),
        column("64 KB GB/CPU-s", "gb 65536", Spread, 2),
        column("1 MB GB/CPU-s", "gb 1048576", Spread, 2),
        column("stream GB/CPU-s", "gb bulk", Spread, 2),
        beside,
    ]
}

const TCP_HOP: &[Column] = &tcp(column("stream × Envoy", "gb bulk", Ratio("Envoy"), 2));
const TCP_PAIR: &[Column] = &tcp(column("stream × Envoys", "gb bulk", Ratio("pair of Envoys"), 2));

pub(super) const CONNECTIONS: &[Sheet] = &[
    Sheet {
        table: "plain",
        title: "A new connection for every HTTP/1.1 request, through one proxy",
        note: "Eight at once, proxies alone on a CPU. Connections to the backend are kept.",
        columns: &[
            column("µs CPU per connection", "cpu", Spread, 1),
            column("× nginx", "cpu", Ratio("nginx"), 2),
            column("× Envoy", "cpu", Ratio("Envoy"), 2),
            column("connections/s", "rate", Median, 0),
            OTHERS,
        ],
    },
    Sheet {
        table: "mtls",
        title: "A full handshake with certificates of both ends for every TCP connection, through pairs",
        note: "Eight at once, one byte there and back on each; no session is resumed. CPU time of both ends.",
        columns: &[
            column("µs CPU per handshake", "cpu", Spread, 0),
            column("× pair of Envoys", "cpu", Ratio("pair of Envoys"), 2),
            column("handshakes/s", "rate", Median, 0),
            OTHERS,
        ],
    },
];

pub(super) const FIXED: &[Sheet] = &[Sheet {
    table: "r1000",
    title: "32 connections, proxies alone on a CPU, HTTP/1.1, 1 KB",
    note: "At so low a rate waking up is most of it: one request per pass of an event loop.",
    columns: &[
        CPU,
        column("× nginx", "cpu", Ratio("nginx"), 2),
        column("× Envoy", "cpu", Ratio("Envoy"), 2),
        column("× pair of Envoys", "cpu", Ratio("pair of Envoys"), 2),
        P50,
        P99,
        OTHERS,
    ],
}];

const LATENCIES: &[Column] = &[
    RATE,
    column("p50 µs", "p50", Spread, 0),
    column("p99 µs", "p99", Spread, 0),
    column("p99.9 µs", "p999", Spread, 0),
];

pub(super) const OPEN_LOOP: &[Sheet] = &[
    Sheet {
        table: "p10",
        title: "10 % of what the slowest can do",
        note: "The same rates for all. Latency counts from when a request was due. Proxies alone on a CPU, so each hop wakes up \
               another CPU: that is most of the latency on a virtual machine.",
        columns: LATENCIES,
    },
    Sheet { table: "p30", title: "30 %", note: "", columns: LATENCIES },
    Sheet { table: "p50", title: "50 %", note: "", columns: LATENCIES },
    Sheet { table: "p70", title: "70 %", note: "", columns: LATENCIES },
];

const PER_REQUEST: &[Column] = &[
    column("system calls per request", "calls", Median, 2),
    column("context switches per request", "switches", Median, 3),
];

pub(super) const CALLS: &[Sheet] = &[
    Sheet { table: "c32", title: "32 connections, proxies alone on a CPU", note: "", columns: PER_REQUEST },
    Sheet { table: "c1", title: "One connection, everything on one CPU", note: "", columns: PER_REQUEST },
];

pub(super) const INSTRUCTIONS: &[Sheet] = &[Sheet {
    table: "instructions",
    title: "HTTP/1.1, one request at a time",
    note: "By `valgrind --tool=callgrind` on the binaries measured above, 2,000 requests and 4,000. The kernel's aren't among \
           them.",
    columns: &[
        column("instructions per request", "instructions", Median, 0),
        column("× nginx", "instructions", Ratio("nginx"), 2),
    ],
}];

pub(super) const MEMORY: &[Sheet] = &[
    Sheet {
        table: "idle",
        title: "Idle, before any load, MB",
        note: "The program itself is in RSS; PSS shares it out among all who run it.",
        columns: &[
            column("RSS", "rss", Median, 1),
            column("PSS", "pss", Median, 1),
            column("anonymous", "anonymous", Median, 1),
            column("private dirty", "private dirty", Median, 1),
        ],
    },
    Sheet {
        table: "connections",
        title: "10,000 idle connections, MB",
        note: "Each has had one request answered. A guard carries 4,096 at most, so through guard and shared proxies they are \
               4,000. nginx has memory for all of its connections from the start.",
        columns: &[
            column("RSS before", "rss before", Median, 1),
            column("with them", "rss open", Median, 1),
            column("60 s after", "rss after", Median, 1),
            column("anonymous before", "anonymous before", Median, 1),
            column("with them", "anonymous open", Median, 1),
            column("60 s after", "anonymous after", Median, 1),
        ],
    },
];

pub(super) const START: &[Sheet] = &[Sheet {
    table: "start",
    title: "Process start to ready, and to the first answer over mutual TLS, ms",
    note: "The caller's proxy of a pair is started, the other one runs. A sidecar gets certificate and configuration from the \
           controller, or has them on disk; Envoy reads a file and needs nobody.",
    columns: &[column("ready", "ready", Spread, 1), column("first answer", "answer", Spread, 1)],
}];

pub(super) const CHANGES: &[Sheet] = &[Sheet {
    table: "changes",
    title: "An HTTPRoute is written, until the first answer by it, ms",
    note: "200 changes a round, as a folder's file, with a request each millisecond over mutual TLS. Wrong are answers other \
           than 200, and those of the rule before that come after one of the new rule.",
    columns: &[
        column("p50", "p50", Spread, 1),
        column("p99", "p99", Spread, 1),
        column("longest", "longest", Spread, 1),
        column("wrong answers", "wrong", Spread, 0),
    ],
}];

pub(super) const RECOVERY: &[Sheet] = &[Sheet {
    table: "recovery",
    title: "500 requests a second, each on a connection of its own",
    note: "Broken are connections that were open to the process that died; failed is every other error but a refused \
           connection. SIGKILL, SIGSTOP; restarted is SIGTERM and a new start.",
    columns: &[
        column("longest time without an answer, ms", "gap", Spread, 1),
        column("refused", "refused", Spread, 0),
        column("broken", "broken", Spread, 0),
        column("failed", "failed", Spread, 0),
        column("answers", "answers", Median, 0),
    ],
}];
