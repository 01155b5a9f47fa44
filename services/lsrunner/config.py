"""What the runner needs to know, from the settings and the state directory."""

from dataclasses import dataclass
from pathlib import Path

from services.runtime.settings import LsrunnerSettings, Settings
from services.runtime.state import StateDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class LsrunnerConfig:
    """
    Plain values for the parts.

    Attributes:
        workspace: Of a language server that runs as the current user; another user's is in that user's home.
        simulator_certificate: PEM: certificate, then key.
    """

    language_server: LsrunnerSettings
    mitm_port: int
    simulator_port: int
    run: Path
    shared: Path
    trust_bundle: Path
    authority_certificate: Path
    simulator_certificate: Path
    workspace: Path

    @classmethod
    def build(cls, settings: Settings, state: StateDirectory) -> "LsrunnerConfig":
        """Gather what concerns the runner."""
        return cls(
            language_server=settings.lsrunner,
            mitm_port=settings.mitm.port,
            simulator_port=settings.simulator.port,
            run=state.run,
            shared=state.shared,
            trust_bundle=state.trust_bundle,
            authority_certificate=state.authority_certificate,
            simulator_certificate=state.simulator / "provider.pem",
            workspace=state.home / "workspace",
        )
