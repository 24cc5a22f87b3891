//! `/tasks`, `/tasks.json`, `/metrics` and `/healthz`, in plain HTTP on an address of their own.

use crate::clock;
use crate::driver::Core;
use crate::metrics::Exposition;
use crate::page::Page;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use borg_proto::rpc::{Guests, METRICS_CONTENT_TYPE};
use borg_proto::{CellName, MachineName};
use prometheus_client::metrics::counter::Counter;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A core that does not answer for so long is not healthy. Our choice.
const PATIENCE: Duration = Duration::from_secs(2);

/// A page loads nothing and runs nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// Makes pages of what the supervisor knows.
#[derive(Debug, Clone)]
struct Pages {
    core: Core,
    identity: (CellName, MachineName),
}

impl Pages {
    async fn page(&self) -> Option<Page> {
        let seen = tokio::time::timeout(PATIENCE, self.core.seen()).await.ok()??;
        let (cell, machine) = self.identity.clone();
        Some(Page::new(cell, machine, clock::now(), seen))
    }
}

fn silent() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the supervisor does not answer\n").into_response()
}

/// Serves until `stop`; `sent_away` counts connections beyond those that it takes.
pub(crate) async fn serve(
    listener: TcpListener,
    sent_away: Counter,
    exposition: Exposition,
    core: Core,
    identity: (CellName, MachineName),
    stop: CancellationToken,
) -> std::io::Result<()> {
    let exposition = Arc::new(exposition);
    let pages = Pages { core: core.clone(), identity };
    let (of_tasks, for_people, for_programs) = (pages.clone(), pages.clone(), pages);
    let metrics = move || {
        let (mut text, pages) = (exposition.text(), of_tasks.clone());
        async move {
            // The borglet's own figures are there even when its supervisor is not.
            if let Some(page) = pages.page().await {
                text.push_str(&page.metrics());
            }
            ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text)
        }
    };
    let people = move || {
        let pages = for_people.clone();
        async move {
            let Some(page) = pages.page().await else { return silent() };
            let kind = (header::CONTENT_TYPE, "text/html; charset=utf-8");
            ([kind, (header::CONTENT_SECURITY_POLICY, POLICY)], page.html()).into_response()
        }
    };
    let programs = move || {
        let pages = for_programs.clone();
        async move {
            let Some(page) = pages.page().await else { return silent() };
            ([(header::CONTENT_TYPE, "application/json")], page.json()).into_response()
        }
    };
    let health = move || {
        let core = core.clone();
        async move {
            match tokio::time::timeout(PATIENCE, core.obeyed()).await {
                Ok(Some(_)) => (StatusCode::OK, "ok\n").into_response(),
                Ok(None) | Err(_) => silent(),
            }
        }
    };
    let routes = Router::new()
        .route("/tasks", get(people))
        .route("/tasks.json", get(programs))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health));
    let guests = Guests::new(listener, move || {
        sent_away.inc();
    });
    axum::serve(guests, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}
