//! The constructors of health checks: `http`, `tcp` and `command`.

use super::fields::{FieldError, Fields};
use super::session::{Piece, Session};
use borg_proto::health::{
    HealthCheck, MAX_PROBE_FAILURES, MAX_START_UP, PROBE_EVERY, PROBE_WITHIN, Probe,
};
use borg_proto::names::PortName;
use starlark::collections::SmallMap;
use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::Value;
use starlark::values::tuple::UnpackTuple;

/// The path that is asked for when none is given: what most servers have.
const USUAL_PATH: &str = "/healthz";
const HTTP: [&str; 6] = ["port", "path", "grace", "interval", "timeout", "failures"];
const TCP: [&str; 5] = ["port", "grace", "interval", "timeout", "failures"];
const COMMAND: [&str; 5] = ["words", "grace", "interval", "timeout", "failures"];

type Named<'v> = SmallMap<String, Value<'v>>;

#[starlark_module]
pub(super) fn constructors(builder: &mut GlobalsBuilder) {
    /// Healthy is what answers `GET path` well: `http("http", "/healthz", interval = "5s")`.
    fn http<'v>(
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: Named<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut fields = Fields::new("http", &HTTP, 2, args.items, named)?;
        let port = port(&mut fields, "http(\"http\", \"/healthz\")")?;
        let path = fields.text("path")?.unwrap_or_else(|| USUAL_PATH.to_owned());
        let check = timed(&mut fields, Probe::Http { port, path })?;
        Ok(Session::of(eval).keep(Piece::Health(check), eval.heap())?)
    }

    /// Healthy is what accepts connections: `tcp("redis")`.
    fn tcp<'v>(
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: Named<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut fields = Fields::new("tcp", &TCP, 1, args.items, named)?;
        let port = port(&mut fields, "tcp(\"redis\")")?;
        let check = timed(&mut fields, Probe::Tcp { port })?;
        Ok(Session::of(eval).keep(Piece::Health(check), eval.heap())?)
    }

    /// Healthy is where a program exits with 0: `command(["pg_isready"])`.
    fn command<'v>(
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: Named<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut fields = Fields::new("command", &COMMAND, 1, args.items, named)?;
        let words = fields.texts("words")?;
        let check = timed(&mut fields, Probe::Command(words))?;
        Ok(Session::of(eval).keep(Piece::Health(check), eval.heap())?)
    }
}

fn port(fields: &mut Fields<'_>, example: &str) -> Result<PortName, FieldError> {
    let text = fields.text("port")?.ok_or_else(|| fields.missing("port", example))?;
    text.parse().map_err(|why| fields.error("port", why))
}

/// The check with the times that were given; the rest of its bounds is checked with the task.
fn timed(fields: &mut Fields<'_>, probe: Probe) -> Result<HealthCheck, FieldError> {
    let usual = HealthCheck::new(probe);
    Ok(HealthCheck {
        grace_ms: fields.time("grace", MAX_START_UP)?.unwrap_or(usual.grace_ms),
        interval_ms: fields.time("interval", PROBE_EVERY.1)?.unwrap_or(usual.interval_ms),
        timeout_ms: fields.time("timeout", PROBE_WITHIN.1)?.unwrap_or(usual.timeout_ms),
        failures: fields.whole("failures", 1, MAX_PROBE_FAILURES)?.unwrap_or(usual.failures),
        ..usual
    })
}
