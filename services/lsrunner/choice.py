"""
Which profile: the one that the settings name, or for `auto` the first that is installed.

The order of `auto`: antigravity where its binary is found, then acp where a command is set, else simulated. Modules are
imported when they are chosen: each brings what it needs, and nobody pays for the others.
"""

from collections.abc import Callable, Mapping

from services.lsrunner.profiles import Place, Profile
from services.runtime.settings import LsrunnerSettings

Build = Callable[[Place], Profile]


def choose(settings: LsrunnerSettings, environ: Mapping[str, str]) -> str:
    """Return the name of the profile to run."""
    if settings.profile != "auto":
        return settings.profile
    from services.lsrunner.profiles.antigravity import AntigravityProfile

    if AntigravityProfile.available(settings, environ) is not None:
        return "antigravity"
    return "acp" if settings.command else "simulated"


def builder_of(name: str) -> Build:
    """Return what builds the profile of that name."""
    match name:
        case "antigravity":
            from services.lsrunner.profiles.antigravity import AntigravityProfile

            return AntigravityProfile
        case "acp":
            from services.lsrunner.profiles.acp import AcpProfile

            return AcpProfile
        case "command":
            from services.lsrunner.profiles.command import CommandProfile

            return CommandProfile
        case _:
            assert name == "simulated", name
            from services.lsrunner.profiles.simulated import SimulatedProfile

            return SimulatedProfile
