//! What tasks ask of a machine, and of quota.

use crate::network::Network;
use crate::resources::{Resources, TASK_ADDRESS, WHOLE_DEVICE};
use crate::spec::{JobSpec, TaskSpec};

impl JobSpec {
    /// What one of its tasks asks of a machine: its limit and ports, and an address if its network is its
    /// own. Of a task in an alloc only ports and address; the rest is its alloc's.
    #[must_use]
    pub fn asked(&self) -> Resources {
        let asked = self.task.asked();
        if self.alloc_set.is_some() {
            // Such a task names no devices.
            let Resources { ports, devices, .. } = asked;
            return Resources { ports, devices, ..Resources::default() };
        }
        asked
    }

    /// What one of its tasks takes of its user's quota: what it asks for, but for an address, which
    /// is nothing that is sold.
    #[must_use]
    pub fn charged(&self) -> Resources {
        let mut asked = self.asked();
        asked.devices.remove(TASK_ADDRESS);
        asked
    }
}

impl TaskSpec {
    /// What a task asks of a machine: the limit, with the count of its named ports; with a network of its
    /// own an address in their place.
    #[must_use]
    pub fn asked(&self) -> Resources {
        let mut asked = self.limit.clone();
        match self.network {
            Network::Host => asked.ports = u32::try_from(self.ports.len()).unwrap_or(u32::MAX),
            Network::Own => drop(asked.devices.insert(TASK_ADDRESS.into(), WHOLE_DEVICE)),
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn job() -> JobSpec {
        let text = r#"{"name":"web","kind":"service","task":{"command":["/bin/true"],
            "limit":{"cpu_milli":100,"ram_bytes":10485760}}}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_network_of_its_own_asks_for_an_address_and_no_ports_of_the_machine() {
        let mut spec = job();
        let task = Arc::make_mut(&mut spec.task);
        task.ports = ["http", "admin"].map(|port| port.parse().unwrap()).to_vec();
        assert_eq!((spec.asked().ports, spec.asked().devices.len()), (2, 0));
        let told = serde_json::to_value(&*spec.task).unwrap();
        assert_eq!(told.get("network"), None, "as it was before there was a choice");
        Arc::make_mut(&mut spec.task).network = Network::Own;
        spec.check().unwrap();
        let asked = spec.asked();
        assert_eq!((asked.ports, asked.devices[TASK_ADDRESS]), (0, WHOLE_DEVICE));
        assert_eq!(spec.task.own_ports(), [8_000, 8_001]);
        assert_eq!(spec.charged(), Resources { devices: BTreeMap::new(), ..asked });
        assert_eq!(spec.level(), 5);
        spec.alloc_set = Some("ann/set".parse().unwrap());
        let in_alloc = spec.asked();
        assert_eq!((in_alloc.cpu_milli, in_alloc.devices.len()), (0, 1));
        let mut cunning = job();
        let limit = &mut Arc::make_mut(&mut cunning.task).limit;
        limit.devices.insert(TASK_ADDRESS.into(), 1_000);
        assert_eq!(
            cunning.check().unwrap_err().to_string(),
            "task.limit.devices.task-address: 1000 is set: ask for network = \"own\" instead"
        );
    }
}
