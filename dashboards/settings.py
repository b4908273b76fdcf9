"""How the server is set up: for this machine only, and silent."""

HOST = "127.0.0.1"
OWN_HOSTS = (HOST, "localhost")
"""Names under which the server answers."""

SETTINGS = {
    "server.address": HOST,
    "server.allowedHosts": list(OWN_HOSTS),
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": False,
    "server.enableStaticServing": False,
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "viewer",
    "logger.hideWelcomeMessage": True,
    "runner.magicEnabled": False,
}
"""What differs from Streamlit's own defaults: reachable from this machine only, and silent."""
