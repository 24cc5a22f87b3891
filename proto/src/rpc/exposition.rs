//! Metrics as text: the form that `promtool` and every scraper reads.

use std::collections::BTreeSet;

/// The content type of [`prometheus_text`].
pub const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The Prometheus text format, made from `OpenMetrics`, which is what the metrics library writes.
///
/// `OpenMetrics` names a counter without `_total` in HELP and TYPE and has UNIT and EOF lines; the
/// older text format, which `promtool check metrics` reads, wants the sample's own name and knows
/// neither line.
#[must_use]
pub fn prometheus_text(openmetrics: &str) -> String {
    let counter =
        |line: &str| line.strip_prefix("# TYPE ")?.strip_suffix(" counter").map(str::to_owned);
    let counters: BTreeSet<String> = openmetrics.lines().filter_map(counter).collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name), rest) if counters.contains(name) => {
                text.push_str(&format!("# {kind} {name}_total {}", rest.unwrap_or("")));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_alike_in_help_type_and_sample() {
        let openmetrics = "# HELP polls Polls.\n# TYPE polls counter\npolls_total 1\n\
                           # HELP up Up.\n# TYPE up gauge\n# UNIT up seconds\nup 2\n# EOF\n";
        let expected = "# HELP polls_total Polls.\n# TYPE polls_total counter\npolls_total 1\n\
                        # HELP up Up.\n# TYPE up gauge\nup 2\n";
        assert_eq!(prometheus_text(openmetrics), expected);
    }
}
