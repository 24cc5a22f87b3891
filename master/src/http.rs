//! `/metrics`, `/healthz` and `/sd`, in plain HTTP on an address of their own.

use crate::discovery::{self, Discovery};
use crate::metrics::Exposition;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use borg_proto::rpc::{Guests, METRICS_CONTENT_TYPE};
use prometheus_client::metrics::counter::Counter;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Whether the replica is fit to serve: it knows a leader.
pub(crate) type Healthy = Arc<dyn Fn() -> bool + Send + Sync>;

/// Brings metrics up to date that are only counted when somebody looks.
pub(crate) type Refresh = Box<dyn Fn() + Send + Sync>;

/// Serves until `stop`; `sent_away` counts connections beyond those that it takes.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    sent_away: Counter,
    exposition: Exposition,
    refresh: Refresh,
    healthy: Healthy,
    targets: Option<Discovery>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let shown = Arc::new((exposition, refresh));
    let metrics = move || {
        let (exposition, refresh) = shown.as_ref();
        refresh();
        let text = exposition.text();
        async move { ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text) }
    };
    let health = move || {
        let answer = if healthy() {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "no leader known\n")
        };
        async move { answer.into_response() }
    };
    let mut routes = Router::new().route("/metrics", get(metrics)).route("/healthz", get(health));
    if let Some(targets) = targets {
        routes = routes.route("/sd", get(discovery::targets).with_state(targets));
    }
    let guests = Guests::new(listener, move || {
        sent_away.inc();
    });
    axum::serve(guests, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}
