"""The desktop app over the client SDK: view models that know no Qt, an engine in a thread, widgets that only show."""
