// A page that sends and receives commands and files. Everything of Dian is in here.
import { codeText, connect } from "@dian-im/sdk";

const $ = (id) => document.getElementById(id);
const say = (text, ...more) => {
  const line = document.createElement("li");
  line.append(text, ...more); // as text: names and contents are somebody else's data
  $("log").append(line);
};

// connect
async function login(user) {
  return connect(await (await fetch("/relay")).text(), {
    tokenProvider: async (signal) => {
      const answer = await fetch(`/token?user=${encodeURIComponent(user)}`, { signal });
      if (!answer.ok) throw new Error(`no token: ${answer.status}`);
      return answer.text();
    },
    acceptFile: (offer) => (offer.size < 10 * 2 ** 30 ? offer.accept() : offer.refuse(0, "too large for this page")),
    on: {
      cmdData: (c) => say(`${c.source}: ${c.text()}`),
      fileData: received,
      receiveFailed: (e) => say(`from ${e.source}: ${codeText(e.error.code)}`),
      reconnecting: () => say("line lost, reconnecting"),
      reconnected: () => say("connected again"),
      lineOff: (e) => say(e.code === 10 ? "connected somewhere else" : `off: ${codeText(e.code)}`),
    },
  });
}

// receive
function received(file) {
  if (file.receipt === "handed") return say(`${file.source}: ${file.safeName} is in your downloads`);
  const [save, remove] = [document.createElement("button"), document.createElement("button")];
  save.append("Save");
  save.onclick = () => file.save().catch((e) => say(codeText(e.code)));
  remove.append("Delete");
  remove.onclick = () => file.remove().then(() => remove.parentElement.remove());
  say(`${file.source}: ${file.safeName}, ${file.size} bytes `, save, " ", remove);
}

// send
async function sendText(client, to, text) {
  const { code } = await client.sendCmd(to, text).result;
  say(code === 0 ? `${to} has "${text}"` : `${to}: ${codeText(code)}`);
}

async function sendFile(client, to, file) {
  const task = client.sendFile(to, file);
  task.onProgress((p) => ($("bar").value = p.total === 0 ? 0 : p.sent / p.total));
  $("stop").onclick = () => task.cancel();
  $("stop").disabled = false;
  const { code, receipt } = await task.result;
  $("stop").disabled = true;
  if (code !== 0) say(`${to}: ${codeText(code)}`);
  else say(receipt === "stored" ? `${to} has ${file.name}` : `${file.name} was handed to the browser of ${to}`);
}

// the page
$("login").onsubmit = async (e) => {
  e.preventDefault();
  try {
    const client = await login(e.target.user.value);
    $("login").hidden = true;
    $("send").hidden = false;
    $("send").onsubmit = (s) => {
      s.preventDefault();
      const [to, text, file] = [s.target.to.value, s.target.text.value, s.target.file.files[0]];
      if (text !== "") void sendText(client, to, text);
      if (file !== undefined) void sendFile(client, to, file);
    };
    for (const f of await client.files()) received(f); // still here from an earlier visit
    say(`connected as ${client.user}`);
  } catch (fault) {
    say(`not connected: ${fault.message}`);
  }
};
