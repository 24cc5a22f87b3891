//! Each call of the API: who may make it, and what is asked of whom.
//!
//! Checks and ways to ask are the parent's; `views`, `streams` and the others make the answers.

use super::deadline::timeout;
use super::{
    Api, HELLO, bad_name, check_size, drains, find_job, find_task, kept, names, now_in, packages,
    privileges, quotas, sessions, shows_the_past, streams, updates, views,
};
use crate::clock;
use crate::past;
use crate::peer_service::hello;
use crate::peers;
use crate::said::AllSaid;
use crate::store::Backup;
use borg_cell::master::Master;
use borg_cell::state::Job;
use borg_proto::Millis;
use borg_proto::command::Action;
use borg_proto::names::{IncarnationId, JobId};
use borg_proto::rpc::{self, Borgmaster};
use borg_proto::wire::{Change, pb, read_update};
use std::sync::atomic::Ordering;
use tonic::{Request, Response, Status, Streaming};

#[tonic::async_trait]
impl Borgmaster for Api {
    async fn submit_job(
        &self,
        request: Request<pb::SubmitJobRequest>,
    ) -> Result<Response<pb::SubmitJobResponse>, Status> {
        let user = self.user(&request, "SubmitJob")?;
        let timeout = timeout(&request);
        let message = request.into_inner();
        message.spec.as_ref().map_or(Ok(()), check_size)?;
        let planned = message.planned.clone();
        let change = Change::try_from(message).map_err(|error| rpc::status_of(&error))?;
        let done = self.changes.make(user, change, planned, timeout).await?;
        let Some(pb::accepted::Answer::Job(job_id)) = done.answer else {
            return Err(Status::internal("the cell accepted something else"));
        };
        let state = self.view().state;
        let (job, fitting_machines) = state.job(JobId(job_id)).map_or_else(
            || (String::new(), 0),
            |job| (job.key.to_string(), views::fitting_machines(&state, job)),
        );
        Ok(Response::new(pb::SubmitJobResponse {
            job,
            job_id,
            index: done.index,
            fitting_machines,
        }))
    }

    async fn plan(
        &self,
        request: Request<pb::PlanRequest>,
    ) -> Result<Response<pb::PlanResponse>, Status> {
        let user = self.user(&request, "Plan")?;
        self.changes.planner.plan(&user, request.into_inner()).await.map(Response::new)
    }

    async fn kill(
        &self,
        request: Request<pb::KillRequest>,
    ) -> Result<Response<pb::KillResponse>, Status> {
        let done = self.changed(request, "Kill").await?;
        let Some(pb::accepted::Answer::Killed(killed)) = done.answer else {
            return Err(Status::internal("the cell accepted something else"));
        };
        Ok(Response::new(pb::KillResponse { killed, index: done.index }))
    }

    async fn update_job(
        &self,
        request: Request<pb::UpdateJobRequest>,
    ) -> Result<Response<pb::UpdateJobResponse>, Status> {
        if let Some(pb::UpdateJob { to: Some(pb::update_job::To::Spec(spec)), .. }) =
            &request.get_ref().update
        {
            check_size(spec)?;
        }
        let done = self.changed(request, "UpdateJob").await?;
        let Some(pb::accepted::Answer::Version(version)) = done.answer else {
            return Err(Status::internal("the cell accepted something else"));
        };
        Ok(Response::new(pb::UpdateJobResponse { version, index: done.index }))
    }

    async fn plan_update(
        &self,
        request: Request<pb::PlanUpdateRequest>,
    ) -> Result<Response<pb::PlanUpdateResponse>, Status> {
        let user = self.user(&request, "PlanUpdate")?;
        let view = self.view_for(&user, &request).await?;
        let asked = read_update(request.into_inner().update);
        let asked = asked.map_err(|error| rpc::status_of(&error))?;
        let Action::UpdateJob { job, to, options } = asked else {
            return Err(Status::internal("an update is something else"));
        };
        let (state, who) = (view.state.clone(), user.clone());
        // It goes through all tasks of a job.
        let plan = move || state.plan_update(&who, &job, &to, &options, clock::now());
        let planned = self.changes.planner.alone(&user, plan).await?;
        Ok(Response::new(updates::plan(&view, planned)))
    }

    async fn steer_update(
        &self,
        request: Request<pb::SteerUpdateRequest>,
    ) -> Result<Response<pb::SteerUpdateResponse>, Status> {
        let done = self.changed(request, "SteerUpdate").await?;
        Ok(Response::new(pb::SteerUpdateResponse { index: done.index }))
    }

    async fn get_update(
        &self,
        request: Request<pb::GetUpdateRequest>,
    ) -> Result<Response<pb::GetUpdateResponse>, Status> {
        let user = self.user(&request, "GetUpdate")?;
        let view = self.view_for(&user, &request).await?;
        let now = now_in(&view, false);
        updates::update(&view, &request.into_inner().job, now).map(Response::new)
    }

    async fn list_versions(
        &self,
        request: Request<pb::ListVersionsRequest>,
    ) -> Result<Response<pb::ListVersionsResponse>, Status> {
        let user = self.user(&request, "ListVersions")?;
        let view = self.view_for(&user, &request).await?;
        let now = now_in(&view, false);
        updates::versions(&view, &request.into_inner().job, now).map(Response::new)
    }

    async fn stop_tasks(
        &self,
        request: Request<pb::StopTasksRequest>,
    ) -> Result<Response<pb::StopTasksResponse>, Status> {
        let done = self.changed(request, "StopTasks").await?;
        let Some(pb::accepted::Answer::Killed(tasks)) = done.answer else {
            return Err(Status::internal("the cell accepted something else"));
        };
        Ok(Response::new(pb::StopTasksResponse { tasks, index: done.index }))
    }

    async fn start_tasks(
        &self,
        request: Request<pb::StartTasksRequest>,
    ) -> Result<Response<pb::StartTasksResponse>, Status> {
        let done = self.changed(request, "StartTasks").await?;
        let Some(pb::accepted::Answer::Killed(tasks)) = done.answer else {
            return Err(Status::internal("the cell accepted something else"));
        };
        Ok(Response::new(pb::StartTasksResponse { tasks, index: done.index }))
    }

    async fn rerun(
        &self,
        request: Request<pb::RerunRequest>,
    ) -> Result<Response<pb::RerunResponse>, Status> {
        let done = self.changed(request, "Rerun").await?;
        let Some(pb::accepted::Answer::Rerun(tasks)) = done.answer else {
            return Err(Status::internal("the cell accepted something else"));
        };
        Ok(Response::new(pb::RerunResponse { tasks, index: done.index }))
    }

    async fn rescue_data(
        &self,
        request: Request<pb::RescueDataRequest>,
    ) -> Result<Response<pb::RescueDataResponse>, Status> {
        let done = self.changed(request, "RescueData").await?;
        Ok(Response::new(pb::RescueDataResponse { index: done.index }))
    }

    async fn list_kept_data(
        &self,
        request: Request<pb::ListKeptDataRequest>,
    ) -> Result<Response<pb::ListKeptDataResponse>, Status> {
        let user = self.user(&request, "ListKeptData")?;
        let (view, past) = (self.view_for(&user, &request).await?, shows_the_past(&request));
        let only = &request.get_ref().user;
        Ok(Response::new(kept::list(&view, only, now_in(&view, past))))
    }

    async fn order_cron(
        &self,
        request: Request<pb::OrderCronRequest>,
    ) -> Result<Response<pb::OrderCronResponse>, Status> {
        let done = self.changed(request, "OrderCron").await?;
        let made = match done.answer {
            Some(pb::accepted::Answer::Job(id)) => Some(JobId(id)),
            Some(_) | None => None,
        };
        let state = self.view().state;
        let job = made.and_then(|id| state.job(id)).map(|job| job.key.to_string());
        let job = job.unwrap_or_default();
        Ok(Response::new(pb::OrderCronResponse { job, index: done.index }))
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let user = self.user(&request, "ListJobs")?;
        let (view, past) = (self.view_for(&user, &request).await?, shows_the_past(&request));
        let message = request.into_inner();
        let wanted = |job: &&Job| {
            (message.all || job.is_alive())
                && (message.user.is_empty() || job.owner().as_str() == message.user)
        };
        let jobs = view
            .state
            .jobs()
            .filter(wanted)
            .map(|job| views::job_summary(&view.state, job))
            .collect();
        Ok(Response::new(pb::ListJobsResponse {
            jobs,
            read: Some(views::read_info(&view)),
            now_ms: now_in(&view, past),
        }))
    }

    async fn get_job(
        &self,
        request: Request<pb::GetJobRequest>,
    ) -> Result<Response<pb::GetJobResponse>, Status> {
        let user = self.user(&request, "GetJob")?;
        let (view, past) = (self.view_for(&user, &request).await?, shows_the_past(&request));
        let job = find_job(&view, &request.into_inner().job)?;
        let running = view.state.tasks_of(job.id).filter_map(|(id, task)| task.running(id));
        let running: Vec<IncarnationId> = running.collect();
        // What is not in the log is known of now only.
        let said = match past {
            true => AllSaid::new(),
            false => self.said(&user, running).await?,
        };
        let tasks = view.state.tasks_of(job.id).filter(|(_, task)| !views::is_withdrawn(task));
        let info = |(id, task)| views::task_info(&view, &said, job, id, task);
        let tasks = tasks.map(info).collect();
        Ok(Response::new(pb::GetJobResponse {
            job: Some(views::whole_job(&view.state, job)),
            spec: Some(views::spec_for(job, self.may_see(&user, job.owner()).await)),
            tasks,
            read: Some(views::read_info(&view)),
            now_ms: now_in(&view, past),
        }))
    }

    async fn why(
        &self,
        request: Request<pb::WhyRequest>,
    ) -> Result<Response<pb::WhyResponse>, Status> {
        let user = self.user(&request, "Why")?;
        let view = self.view_for(&user, &request).await?;
        let (_, id) = find_task(&view, &request.into_inner().task)?;
        let explanation = self.scheduler.why(id).await.ok_or_else(|| {
            Status::resource_exhausted(
                "too many questions wait for the scheduler: try again in a second",
            )
        })?;
        let mut why = views::why(&view, id, explanation);
        let placed =
            view.state.job(id.job).zip(view.state.task(id).and_then(|task| task.running(id)));
        if let Some((job, incarnation)) = placed
            && views::brings_packages(job)
            && let Some(said) = self.said(&user, vec![incarnation]).await?.get(&incarnation)
            && !said.note.is_empty()
        {
            why.summary = format!("{}; {}", why.summary, said.note);
        }
        Ok(Response::new(why))
    }

    async fn list_machines(
        &self,
        request: Request<pb::ListMachinesRequest>,
    ) -> Result<Response<pb::ListMachinesResponse>, Status> {
        let user = self.user(&request, "ListMachines")?;
        let (view, past) = (self.view_for(&user, &request).await?, shows_the_past(&request));
        let ids: Vec<_> = view.state.machines().map(|machine| machine.id).collect();
        let shard = move |master: &Master, id| master.shard_of(id).filter(|_| !past);
        let shards: Vec<_> = self
            .look(&user, move |master| ids.into_iter().map(|id| shard(master, id)).collect())
            .await?;
        let machines = view.state.machines().zip(shards);
        let silent = self.silent(&user).await?;
        let machines = machines.map(|(machine, shard)| pb::Machine {
            silent_ms: silent.get(machine.name.as_str()).copied().unwrap_or(0),
            ..views::machine(machine, shard)
        });
        Ok(Response::new(pb::ListMachinesResponse {
            machines: machines.collect(),
            safe_mode: views::safe_mode(&view.state),
            read: Some(views::read_info(&view)),
            now_ms: now_in(&view, past),
        }))
    }

    async fn add_machine(
        &self,
        request: Request<pb::AddMachineRequest>,
    ) -> Result<Response<pb::AddMachineResponse>, Status> {
        let done = self.changed(request, "AddMachine").await?;
        Ok(Response::new(pb::AddMachineResponse { index: done.index }))
    }

    async fn remove_machine(
        &self,
        request: Request<pb::RemoveMachineRequest>,
    ) -> Result<Response<pb::RemoveMachineResponse>, Status> {
        let done = self.changed(request, "RemoveMachine").await?;
        Ok(Response::new(pb::RemoveMachineResponse { index: done.index }))
    }

    async fn invite_master(
        &self,
        request: Request<pb::InviteMasterRequest>,
    ) -> Result<Response<pb::InviteMasterResponse>, Status> {
        let done = self.changed(request, "InviteMaster").await?;
        Ok(Response::new(pb::InviteMasterResponse { index: done.index }))
    }

    async fn remove_master(
        &self,
        request: Request<pb::RemoveMasterRequest>,
    ) -> Result<Response<pb::RemoveMasterResponse>, Status> {
        let done = self.changed(request, "RemoveMaster").await?;
        Ok(Response::new(pb::RemoveMasterResponse { index: done.index }))
    }

    async fn give_up_machines(
        &self,
        request: Request<pb::GiveUpMachinesRequest>,
    ) -> Result<Response<pb::GiveUpMachinesResponse>, Status> {
        let done = self.changed(request, "GiveUpMachines").await?;
        Ok(Response::new(pb::GiveUpMachinesResponse { index: done.index }))
    }

    async fn settle(
        &self,
        request: Request<pb::SettleRequest>,
    ) -> Result<Response<pb::SettleResponse>, Status> {
        let done = self.changed(request, "Settle").await?;
        Ok(Response::new(pb::SettleResponse { index: done.index }))
    }

    async fn resize_allocs(
        &self,
        request: Request<pb::ResizeAllocsRequest>,
    ) -> Result<Response<pb::ResizeAllocsResponse>, Status> {
        let done = self.changed(request, "ResizeAllocs").await?;
        Ok(Response::new(pb::ResizeAllocsResponse { index: done.index }))
    }

    async fn keep_machines(
        &self,
        request: Request<pb::KeepMachinesRequest>,
    ) -> Result<Response<pb::KeepMachinesResponse>, Status> {
        let done = self.changed(request, "KeepMachines").await?;
        Ok(Response::new(pb::KeepMachinesResponse { index: done.index }))
    }

    async fn close_machines(
        &self,
        request: Request<pb::CloseMachinesRequest>,
    ) -> Result<Response<pb::CloseMachinesResponse>, Status> {
        let done = self.changed(request, "CloseMachines").await?;
        Ok(Response::new(pb::CloseMachinesResponse { index: done.index }))
    }

    async fn open_machines(
        &self,
        request: Request<pb::OpenMachinesRequest>,
    ) -> Result<Response<pb::OpenMachinesResponse>, Status> {
        let done = self.changed(request, "OpenMachines").await?;
        Ok(Response::new(pb::OpenMachinesResponse { index: done.index }))
    }

    async fn drain_machines(
        &self,
        request: Request<pb::DrainMachinesRequest>,
    ) -> Result<Response<pb::DrainMachinesResponse>, Status> {
        let done = self.changed(request, "DrainMachines").await?;
        Ok(Response::new(pb::DrainMachinesResponse { index: done.index }))
    }

    async fn undrain_machines(
        &self,
        request: Request<pb::UndrainMachinesRequest>,
    ) -> Result<Response<pb::UndrainMachinesResponse>, Status> {
        let done = self.changed(request, "UndrainMachines").await?;
        Ok(Response::new(pb::UndrainMachinesResponse { index: done.index }))
    }

    async fn end_maintenance(
        &self,
        request: Request<pb::EndMaintenanceRequest>,
    ) -> Result<Response<pb::EndMaintenanceResponse>, Status> {
        let done = self.changed(request, "EndMaintenance").await?;
        Ok(Response::new(pb::EndMaintenanceResponse { index: done.index }))
    }

    async fn plan_drain(
        &self,
        request: Request<pb::DrainMachinesRequest>,
    ) -> Result<Response<pb::PlanDrainResponse>, Status> {
        let user = self.user(&request, "PlanDrain")?;
        let asked = request.into_inner();
        let change = Change::try_from(asked).map_err(|error| rpc::status_of(&error))?;
        let (state, plan) = self.changes.planner.plan_drain(&user, change.action).await?;
        let read = views::read_info(&self.view());
        Ok(Response::new(drains::plan(&state, plan, read)))
    }

    async fn list_drains(
        &self,
        request: Request<pb::ListDrainsRequest>,
    ) -> Result<Response<pb::ListDrainsResponse>, Status> {
        let user = self.user(&request, "ListDrains")?;
        let (view, past) = (self.view_for(&user, &request).await?, shows_the_past(&request));
        let most = drains::check_tasks(request.get_ref().tasks)?;
        Ok(Response::new(drains::list(&view, most, now_in(&view, past))))
    }

    async fn set_policy(
        &self,
        request: Request<pb::SetPolicyRequest>,
    ) -> Result<Response<pb::SetPolicyResponse>, Status> {
        let done = self.changed(request, "SetPolicy").await?;
        Ok(Response::new(pb::SetPolicyResponse { index: done.index }))
    }

    async fn get_policy(
        &self,
        request: Request<pb::GetPolicyRequest>,
    ) -> Result<Response<pb::GetPolicyResponse>, Status> {
        let user = self.user(&request, "GetPolicy")?;
        let view = self.view_for(&user, &request).await?;
        Ok(Response::new(views::policy(&view)))
    }

    async fn set_reclamation(
        &self,
        request: Request<pb::SetReclamationRequest>,
    ) -> Result<Response<pb::SetReclamationResponse>, Status> {
        let done = self.changed(request, "SetReclamation").await?;
        Ok(Response::new(pb::SetReclamationResponse { index: done.index }))
    }

    async fn get_reclamation(
        &self,
        request: Request<pb::GetReclamationRequest>,
    ) -> Result<Response<pb::GetReclamationResponse>, Status> {
        let user = self.user(&request, "GetReclamation")?;
        let view = self.view_for(&user, &request).await?;
        Ok(Response::new(views::reclamation(&view)))
    }

    async fn list_reservations(
        &self,
        request: Request<pb::ListReservationsRequest>,
    ) -> Result<Response<pb::ListReservationsResponse>, Status> {
        let user = self.user(&request, "ListReservations")?;
        let view = self.view_for(&user, &request).await?;
        let told = self.reservations(&user).await?;
        let read = Some(views::read_info(&view));
        Ok(Response::new(pb::ListReservationsResponse { read, ..told }))
    }

    async fn set_quota(
        &self,
        request: Request<pb::SetQuotaRequest>,
    ) -> Result<Response<pb::SetQuotaResponse>, Status> {
        let done = self.changed(request, "SetQuota").await?;
        Ok(Response::new(pb::SetQuotaResponse { index: done.index }))
    }

    async fn remove_quota(
        &self,
        request: Request<pb::RemoveQuotaRequest>,
    ) -> Result<Response<pb::RemoveQuotaResponse>, Status> {
        let done = self.changed(request, "RemoveQuota").await?;
        Ok(Response::new(pb::RemoveQuotaResponse { index: done.index }))
    }

    async fn enforce_quota(
        &self,
        request: Request<pb::EnforceQuotaRequest>,
    ) -> Result<Response<pb::EnforceQuotaResponse>, Status> {
        let done = self.changed(request, "EnforceQuota").await?;
        Ok(Response::new(pb::EnforceQuotaResponse { index: done.index }))
    }

    async fn list_quotas(
        &self,
        request: Request<pb::ListQuotasRequest>,
    ) -> Result<Response<pb::ListQuotasResponse>, Status> {
        let user = self.user(&request, "ListQuotas")?;
        let (view, past) = (self.view_for(&user, &request).await?, shows_the_past(&request));
        let whose = request.into_inner().user;
        let whose = (!whose.is_empty()).then(|| whose.parse().map_err(bad_name("user")));
        let now = Millis(now_in(&view, past));
        Ok(Response::new(quotas::list(&view, whose.transpose()?.as_ref(), now)))
    }

    async fn grant_privilege(
        &self,
        request: Request<pb::GrantPrivilegeRequest>,
    ) -> Result<Response<pb::GrantPrivilegeResponse>, Status> {
        let done = self.changed(request, "GrantPrivilege").await?;
        Ok(Response::new(pb::GrantPrivilegeResponse { index: done.index }))
    }

    async fn revoke_privilege(
        &self,
        request: Request<pb::RevokePrivilegeRequest>,
    ) -> Result<Response<pb::RevokePrivilegeResponse>, Status> {
        let done = self.changed(request, "RevokePrivilege").await?;
        Ok(Response::new(pb::RevokePrivilegeResponse { index: done.index }))
    }

    async fn list_privileges(
        &self,
        request: Request<pb::ListPrivilegesRequest>,
    ) -> Result<Response<pb::ListPrivilegesResponse>, Status> {
        let user = self.user(&request, "ListPrivileges")?;
        let view = self.view_for(&user, &request).await?;
        let whose = privileges::asked_for(&user, self.is_admin(&user).await?, request.get_ref())?;
        Ok(Response::new(privileges::list(&view, whose.as_ref())))
    }

    async fn list_masters(
        &self,
        request: Request<pb::ListMastersRequest>,
    ) -> Result<Response<pb::ListMastersResponse>, Status> {
        self.user(&request, "ListMasters")?;
        let own = hello(&self.view(), self.polled.load(Ordering::Relaxed));
        let mut calls = tokio::task::JoinSet::new();
        for member in self.changes.peers.members() {
            let client = self.changes.peers.client(member.replica);
            calls.spawn(async move {
                let answer = match client {
                    Some(client) => peers::hello(client, HELLO).await,
                    None => Err(Status::internal("no link to this master")),
                };
                views::master(&member, answer)
            });
        }
        let mut masters = calls.join_all().await;
        masters.push(views::master(&self.me, Ok(own)));
        let view = self.view();
        views::stand(&mut masters, &view.state);
        Ok(Response::new(pb::ListMastersResponse {
            masters,
            cell: self.cell.to_string(),
            safe_mode: views::safe_mode(&view.state),
            read: Some(views::read_info(&view)),
        }))
    }

    async fn resolve(
        &self,
        request: Request<pb::ResolveRequest>,
    ) -> Result<Response<pb::ResolveResponse>, Status> {
        let user = self.user(&request, "Resolve")?;
        let view = self.view_for(&user, &request).await?;
        let endpoints =
            view.state.resolve(&request.into_inner().name).map_err(views::bns_status)?;
        Ok(Response::new(pb::ResolveResponse {
            endpoints: endpoints.into_iter().map(views::endpoint).collect(),
            read: Some(views::read_info(&view)),
        }))
    }

    type WatchNamesStream = streams::Items<pb::NamesUpdate>;

    async fn watch_names(
        &self,
        request: Request<pb::WatchNamesRequest>,
    ) -> Result<Response<Self::WatchNamesStream>, Status> {
        let user = self.user(&request, "WatchNames")?;
        names::watch(self, &user, request).await.map(Response::new)
    }

    type WatchStream = streams::Items<pb::Event>;

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let user = self.user(&request, "Watch")?;
        let after = request.get_ref().after_index;
        if after > self.view().state.applied() {
            // This replica may be behind; but no cell has what comes after the end of its log.
            let end = self.confirmed_view(&user).await?.state.applied();
            if after > end {
                return Err(Status::out_of_range(format!(
                    "after_index: {after}, but the log of this cell ends at {end}: it was restored from a \
                     backup since, or the index is another cell's. Read the state anew and watch from now on"
                )));
            }
        }
        streams::watch(self, &request.into_inner()).map(Response::new)
    }

    type ReadLogsStream = streams::Items<pb::LogChunk>;

    async fn read_logs(
        &self,
        request: Request<pb::ReadLogsRequest>,
    ) -> Result<Response<Self::ReadLogsStream>, Status> {
        let user = self.user(&request, "ReadLogs")?;
        sessions::read_logs(self, &user, request.into_inner()).await.map(Response::new)
    }

    type OpenSessionStream = streams::Items<pb::SessionOutput>;

    async fn open_session(
        &self,
        request: Request<Streaming<pb::SessionInput>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let user = self.user(&request, "OpenSession")?;
        sessions::open(self, user, request.into_inner()).await.map(Response::new)
    }

    async fn list_runs(
        &self,
        request: Request<pb::ListRunsRequest>,
    ) -> Result<Response<pb::ListRunsResponse>, Status> {
        let user = self.user(&request, "ListRuns")?;
        let (view, past) = (self.view_for(&user, &request).await?, shows_the_past(&request));
        let (name, id) = find_task(&view, &request.into_inner().task)?;
        // What it wrote last may be as secret as its output.
        let may_read = self.may_see(&user, &name.job.user).await;
        let runs = view.state.runs_of(id).map(|run| views::task_run(run, may_read)).collect();
        let read = Some(views::read_info(&view));
        Ok(Response::new(pb::ListRunsResponse { runs, read, now_ms: now_in(&view, past) }))
    }

    type SaveCheckpointStream = streams::Items<pb::CheckpointChunk>;

    async fn save_checkpoint(
        &self,
        request: Request<pb::SaveCheckpointRequest>,
    ) -> Result<Response<Self::SaveCheckpointStream>, Status> {
        let user = self.user(&request, "SaveCheckpoint")?;
        streams::may_save_checkpoints(&user, self.is_admin(&user).await?)?;
        // A backup of a master that lags would lack what was acknowledged.
        let backup = if request.into_inner().stale {
            self.caught_up.check()?;
            Backup { state: self.view().state, known: None }
        } else {
            let state = self.confirmed_view(&user).await?.state;
            match self.changes.planner.known(state.applied()).await {
                Some((state, begin)) => Backup { state, known: Some(begin) },
                None => Backup { state, known: None },
            }
        };
        Ok(Response::new(streams::save_checkpoint(backup)))
    }

    type SaveHistoryStream = streams::Items<pb::HistoryChunk>;

    async fn save_history(
        &self,
        request: Request<pb::SaveHistoryRequest>,
    ) -> Result<Response<Self::SaveHistoryStream>, Status> {
        let user = self.user(&request, "SaveHistory")?;
        streams::may_save_checkpoints(&user, self.is_admin(&user).await?)?;
        self.caught_up.check()?;
        let pb::SaveHistoryRequest { from, to } = request.into_inner();
        let moment = |field: &str, text: &str| {
            let wrong = |why: String| Status::invalid_argument(format!("{field}: {why}"));
            text.parse::<past::Moment>().map_err(wrong)
        };
        let (from, to) = (moment("from", &from)?, Some(to).filter(|to| !to.is_empty()));
        let to = to.map(|to| moment("to", &to)).transpose()?;
        if to.is_some_and(|to| to.is_before(from)) {
            return Err(Status::invalid_argument("to: is before from: nothing lies between"));
        }
        let newest = self.view().state.applied();
        if matches!(from, past::Moment::Index(index) if index > newest) {
            let why = format!("from: the newest entry here is {newest}");
            return Err(Status::out_of_range(why));
        }
        let driver = &self.changes.driver;
        let (parts, turn) = self.past.stretch(from, to, &self.decisions, driver).await?;
        Ok(Response::new(streams::save_history(parts, turn)))
    }

    async fn find_blobs(
        &self,
        request: Request<pb::FindBlobsRequest>,
    ) -> Result<Response<pb::FindBlobsResponse>, Status> {
        let user = self.user(&request, "FindBlobs")?;
        self.blobs.find(user, &request.into_inner().digests).await.map(Response::new)
    }

    async fn upload_blob(
        &self,
        request: Request<Streaming<pb::BlobChunk>>,
    ) -> Result<Response<pb::UploadBlobResponse>, Status> {
        let user = self.user(&request, "UploadBlob")?;
        self.blobs.upload(user, request.into_inner()).await?;
        Ok(Response::new(pb::UploadBlobResponse {}))
    }

    async fn put_package(
        &self,
        request: Request<pb::PutPackageRequest>,
    ) -> Result<Response<pb::PutPackageResponse>, Status> {
        let user = self.user(&request, "PutPackage")?;
        let timeout = timeout(&request);
        packages::put(self, user, request.into_inner(), timeout).await.map(Response::new)
    }

    async fn list_packages(
        &self,
        request: Request<pb::ListPackagesRequest>,
    ) -> Result<Response<pb::ListPackagesResponse>, Status> {
        let user = self.user(&request, "ListPackages")?;
        let view = self.view_for(&user, &request).await?;
        packages::list(&view, &user, &request.into_inner()).map(Response::new)
    }

    async fn remove_package(
        &self,
        request: Request<pb::RemovePackageRequest>,
    ) -> Result<Response<pb::RemovePackageResponse>, Status> {
        let user = self.user(&request, "RemovePackage")?;
        let timeout = timeout(&request);
        let mut message = request.into_inner();
        message.package = packages::meant(&user, &message.package)?.to_string();
        let done = self.change(user, message, timeout).await?;
        Ok(Response::new(pb::RemovePackageResponse { index: done.index }))
    }

    async fn list_history(
        &self,
        request: Request<pb::ListHistoryRequest>,
    ) -> Result<Response<pb::ListHistoryResponse>, Status> {
        self.user(&request, "ListHistory")?;
        Ok(Response::new(pb::ListHistoryResponse {
            checkpoints: self.past.kept().iter().map(views::kept_checkpoint).collect(),
            read: Some(views::read_info(&self.view())),
        }))
    }
}
