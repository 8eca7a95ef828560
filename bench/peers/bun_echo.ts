// A bare echo in Bun: the two frames, words as deltas, and nothing else. No auth, store, order, limits or resume.
//
// Usage: bun bun_echo.ts DELAY_MS

const delayMs = Number(process.argv[2]);

function ending(frame: any, response: string | null): string {
  return JSON.stringify({
    action: "messageResponse",
    requestId: frame.requestId,
    status: "completed",
    response,
    attempt: 1,
    length: frame.message.length,
  });
}

async function stream(socket: any, frame: any): Promise<void> {
  const words = frame.message.split(" ");
  let offset = 0;
  for (let number = 0; number < words.length; number++) {
    if (delayMs) await Bun.sleep(delayMs);
    const delta = number === words.length - 1 ? words[number] : words[number] + " ";
    socket.send(JSON.stringify({ action: "messageDelta", requestId: frame.requestId, attempt: 1, offset, delta }));
    offset += delta.length;
  }
  socket.send(ending(frame, null));
}

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, server) {
    return server.upgrade(request) ? undefined : new Response("a WebSocket is wanted", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    message(socket, text) {
      const frame = JSON.parse(String(text));
      if (frame.action !== "sendMessage") return;
      if (frame.stream) void stream(socket, frame);
      else socket.send(ending(frame, frame.message));
    },
  },
});
console.log(`listening on ws://127.0.0.1:${server.port}`);
