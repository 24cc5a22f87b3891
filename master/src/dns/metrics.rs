//! What is counted of names over DNS.

use hickory_proto::op::ResponseCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// One label with few values.
type By = Family<[(&'static str, &'static str); 1], Counter>;

/// The counters. Those with labels are there from the start, so that counting looks nothing up.
#[derive(Debug, Clone)]
pub(crate) struct DnsMetrics {
    queries: By,
    answers: By,
    /// Messages over UDP.
    pub over_udp: Counter,
    /// Messages over TCP.
    pub over_tcp: Counter,
    codes: [Counter; CODES.len()],
    /// Messages that got no answer.
    pub passed_over: Counter,
    /// Answers that did not fit.
    pub truncated: Counter,
    /// Answers cut short because their address was sent too much.
    pub limited: Counter,
    /// Answers that the kernel did not take.
    pub unsent: Counter,
    /// Connections.
    pub connections: Gauge,
    /// Connections closed at once.
    pub refused_connections: Counter,
}

/// Codes that are given, as they are shown. What is none of them is shown as the last.
const CODES: [(ResponseCode, &str); 7] = [
    (ResponseCode::NoError, "noerror"),
    (ResponseCode::NXDomain, "nxdomain"),
    (ResponseCode::ServFail, "servfail"),
    (ResponseCode::Refused, "refused"),
    (ResponseCode::FormErr, "formerr"),
    (ResponseCode::NotImp, "notimp"),
    (ResponseCode::BADVERS, "badvers"),
];

impl DnsMetrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let (queries, answers) = (By::default(), By::default());
        let over = |carrier| queries.get_or_create(&[("transport", carrier)]).clone();
        let code = |(_, word)| answers.get_or_create(&[("code", word)]).clone();
        Self {
            over_udp: over("udp"),
            over_tcp: over("tcp"),
            codes: CODES.map(code),
            queries,
            answers,
            passed_over: Counter::default(),
            truncated: Counter::default(),
            limited: Counter::default(),
            unsent: Counter::default(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
        }
    }

    /// Shows them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("dns_queries", "Messages that came over DNS", self.queries.clone());
        registry.register("dns_answers", "Answers over DNS", self.answers.clone());
        let what = "Messages over DNS that were no questions, and got no answer";
        registry.register("dns_passed_over", what, self.passed_over.clone());
        let what = "Answers over DNS that did not fit and sent the client to TCP";
        registry.register("dns_truncated", what, self.truncated.clone());
        let what = "Answers over UDP cut short as their address was sent too much";
        registry.register("dns_limited", what, self.limited.clone());
        let what = "Answers over UDP that the kernel did not take";
        registry.register("dns_unsent", what, self.unsent.clone());
        let what = "Connections for names that are open";
        registry.register("dns_connections", what, self.connections.clone());
        let what = "Connections for names that were closed at once as there are too many";
        registry.register("dns_refused_connections", what, self.refused_connections.clone());
    }

    /// Counts an answer, or that there was none.
    pub(super) fn answered(&self, answer: Option<(ResponseCode, bool)>) {
        let Some((code, truncated)) = answer else {
            self.passed_over.inc();
            return;
        };
        let place = CODES.iter().position(|(known, _)| *known == code).unwrap_or(CODES.len() - 1);
        self.codes[place].inc();
        if truncated {
            self.truncated.inc();
        }
    }
}
