// A client that knows two frames and nothing more: it asks by `sendMessage` and finds `messageResponse` by `requestId`.
//
// Usage: node two_frame.mjs URL QUESTIONS
// Asks all questions at once on one connection, then prints one JSON object: {"question": "response", ...}.

import { randomUUID } from "node:crypto";
import process from "node:process";
import WebSocket from "ws";

class ChatClient {
  constructor(userId) {
    this.userId = userId;
    this.pending = new Map();
  }

  connect(url) {
    this.socket = new WebSocket(url);
    this.socket.on("message", (text) => this.onMessage(JSON.parse(text)));
    return new Promise((resolve, reject) => {
      this.socket.once("open", resolve);
      this.socket.once("error", reject);
    });
  }

  sendMessage(message) {
    const requestId = randomUUID();
    const answer = new Promise((resolve) => this.pending.set(requestId, resolve));
    this.socket.send(
      JSON.stringify({
        action: "sendMessage",
        requestId,
        userId: this.userId,
        message,
        timestamp: new Date().toISOString(),
      }),
    );
    return answer;
  }

  onMessage(data) {
    if (data.action !== "messageResponse") return;
    const resolve = this.pending.get(data.requestId);
    this.pending.delete(data.requestId);
    resolve(data.response);
  }

  close() {
    this.socket.close();
  }
}

const [url, count] = process.argv.slice(2);
const client = new ChatClient("user_node");
await client.connect(url);
const questions = Array.from({ length: Number(count) }, (_, number) => `Question ${number} of Node: 안녕하세요 👋`);
const answers = await Promise.all(questions.map((question) => client.sendMessage(question)));
client.close();
console.log(JSON.stringify(Object.fromEntries(questions.map((question, at) => [question, answers[at]]))));
