//! The client of the API server. The `User-Agent` of its requests names Stowaway's version and component, because the
//! audit log of the API server shows it for each request.

use http::{HeaderValue, header::USER_AGENT};
use kube::{Client, Config};

/// The component of Stowaway that sends the requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Component {
    Cli,
    Controller,
    /// A run in the pod of its Job.
    Runner,
    /// The process that writes the CA bundle into the webhook configurations.
    Trust,
    Webhook,
}

impl Component {
    fn user_agent(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Cli => concat!("stowaway/", env!("CARGO_PKG_VERSION"), " (cli)"),
            Self::Controller => concat!("stowaway/", env!("CARGO_PKG_VERSION"), " (controller)"),
            Self::Runner => concat!("stowaway/", env!("CARGO_PKG_VERSION"), " (runner)"),
            Self::Trust => concat!("stowaway/", env!("CARGO_PKG_VERSION"), " (trust)"),
            Self::Webhook => concat!("stowaway/", env!("CARGO_PKG_VERSION"), " (webhook)"),
        })
    }
}

/// Adds the `User-Agent` of the component to the requests of clients with this configuration.
pub fn with_user_agent(mut config: Config, component: Component) -> Config {
    config.headers.push((USER_AGENT, component.user_agent()));
    config
}

/// A client for the cluster of the kubeconfig, or else of the pod's service account.
pub async fn connect(component: Component) -> kube::Result<Client> {
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    Client::try_from(with_user_agent(config, component))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_agent_has_the_version_and_the_component() {
        for (component, name) in [
            (Component::Cli, "cli"),
            (Component::Controller, "controller"),
            (Component::Runner, "runner"),
            (Component::Trust, "trust"),
            (Component::Webhook, "webhook"),
        ] {
            let config = Config::new("https://cluster.example".parse().unwrap());
            let expected = format!("stowaway/{} ({name})", env!("CARGO_PKG_VERSION"));
            let headers = with_user_agent(config, component).headers;
            assert_eq!(headers, [(USER_AGENT, HeaderValue::from_str(&expected).unwrap())]);
        }
    }
}
