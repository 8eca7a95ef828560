// A chat server as a good engineer writes it by hand, for Node (ws, node:sqlite) and for Bun (its own two).
//
// It does the gateway's job for an answer: the question is on disk before `messageAccepted`, the answer before
// `messageResponse`. All that waits shares one commit. An id is accepted once, and a user's history stays in order.
// With "-" for a folder it is a bare echo: the same frames, and nothing is stored.
//
// Usage: node|bun chat.js FOLDER|- WORD_MS JOIN_MS    the model's time for a word; words within JOIN_MS leave as one frame

const [folder, wordMs, joinMs] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const isBun = typeof Bun !== "undefined";
const store = folder === "-" ? { accept: (_user, _frame, then) => then(), finish: (_row, _text, then) => then() } : sqlite(folder);

function sqlite(folder) {
  const Database = isBun ? require("bun:sqlite").Database : require("node:sqlite").DatabaseSync;
  const db = new Database(`${folder}/chat.db`);
  db.exec("PRAGMA journal_mode = WAL");
  db.exec("PRAGMA synchronous = FULL");
  db.exec(`CREATE TABLE requests (n INTEGER PRIMARY KEY, user TEXT NOT NULL, id TEXT NOT NULL, question TEXT NOT NULL,
    asked_at INTEGER NOT NULL, answer TEXT, ended_at INTEGER, UNIQUE (user, id))`);
  const insert = db.prepare("INSERT OR IGNORE INTO requests (user, id, question, asked_at) VALUES (?, ?, ?, ?)");
  const update = db.prepare("UPDATE requests SET answer = ?, ended_at = ? WHERE n = ?");
  let waiting = [];

  // One commit for all that came in this turn of the event loop.
  function enqueue(write, then) {
    if (waiting.push([write, then]) === 1) setImmediate(commit);
  }
  function commit() {
    const batch = waiting;
    waiting = [];
    db.exec("BEGIN");
    const results = batch.map(([write]) => write());
    db.exec("COMMIT");
    batch.forEach(([, then], number) => then(results[number]));
  }

  return {
    accept(user, frame, then) {
      enqueue(
        () => insert.run(user, frame.requestId, frame.message, Date.now()),
        (result) => result.changes && then(Number(result.lastInsertRowid)),
      );
    },
    finish: (row, text, then) => enqueue(() => update.run(text, Date.now(), row), then),
  };
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function ask(send, user, frame) {
  const asked = Date.now();
  const { requestId } = frame;
  store.accept(user, frame, async (row) => {
    send(JSON.stringify({ action: "messageAccepted", requestId, conversationId: user, position: 0 }));
    const started = Date.now();
    const words = frame.message.match(/\S+\s*/g) ?? [];
    let text = "";
    let sent = 0;
    let lastSent = 0;
    function sendDelta() {
      if (sent === text.length) return;
      send(JSON.stringify({ action: "messageDelta", requestId, attempt: 1, offset: sent, delta: text.slice(sent) }));
      sent = text.length;
      lastSent = Date.now();
    }
    if (frame.stream) send(JSON.stringify({ action: "messageStarted", requestId, attempt: 1 }));
    for (const word of words) {
      if (wordMs) await sleep(wordMs);
      text += word;
      if (frame.stream && Date.now() - lastSent >= joinMs) sendDelta();
    }
    if (frame.stream) sendDelta();
    store.finish(row, text, () => {
      const now = Date.now();
      send(
        JSON.stringify({
          action: "messageResponse",
          requestId,
          status: "completed",
          response: frame.stream ? null : text,
          attempt: 1,
          length: text.length,
          finishReason: "stop",
          usage: { inputTokens: words.length, outputTokens: words.length },
          model: "echo",
          timing: { queuedMs: started - asked, totalMs: now - asked },
        }),
      );
    });
  });
}

function receive(send, user, text) {
  const frame = JSON.parse(text);
  if (frame.action === "sendMessage") ask(send, user, frame);
}

const userOf = (url) => new URL(url, "ws://localhost").searchParams.get("userId");

if (isBun) {
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request, server) =>
      server.upgrade(request, { data: userOf(request.url) }) ? undefined : new Response("a WebSocket is wanted", { status: 426 }),
    websocket: {
      perMessageDeflate: false,
      message: (socket, text) => receive((frame) => socket.send(frame), socket.data, String(text)),
    },
  });
  console.log(`listening on ws://127.0.0.1:${server.port}`);
} else {
  const { WebSocketServer } = require("ws");
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096, perMessageDeflate: false });
  server.on("listening", () => console.log(`listening on ws://127.0.0.1:${server.address().port}`));
  server.on("connection", (socket, request) => {
    const user = userOf(request.url);
    socket.on("message", (text) => receive((frame) => socket.send(frame), user, text.toString()));
  });
}
