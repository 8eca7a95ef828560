"""A PostgreSQL server that follows another one, and can be made the primary."""

from answerback_aws.emulator.postgres import PostgresServer


class StandbyServer(PostgresServer):
    """Each commit of `primary` waits for it."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._primary = primary

    def _make(self) -> None:
        self._run("pg_basebackup", "-D", self._data, "-R", "-N", "-c", "fast", "-d", self._primary.dsn)

    def promote(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "promote")

    def both(self) -> str:
        """The URL that names both servers, and means the one that can be written."""
        hosts = f"{self._primary.folder},{self.folder}"
        return f"postgresql:///postgres?host={hosts}&user=postgres&target_session_attrs=read-write"
