// A consumer of the dialect satlet/1, written from specs/ alone, on nostr-tools
// and cashu-ts. Rents one workload and gives it back:
//
//   node satlet1.mjs RELAY MINT PROVIDER KEY.pub [SECONDS]
//
// PROVIDER is a public key in hex. The mint's Lightning has to pay by itself.
// Prints one JSON object a step: offer, fund, quote, spawn, status, stop,
// refund; or, with exit code 1, error. After status it waits for a line on
// standard input (or its end), so that somebody can use the workload.
import './globals.mjs';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Wallet, getEncodedToken, sumProofs } from '@cashu/cashu-ts';
import * as nip44 from 'nostr-tools/nip44';
import { createRumor, createSeal } from 'nostr-tools/nip59';
import { SimplePool } from 'nostr-tools/pool';
import { finalizeEvent, generateSecretKey, getEventHash, getPublicKey, verifyEvent } from 'nostr-tools/pure';

const [relay, mint, provider, keyFile, seconds = '60'] = process.argv.slice(2);
const DAY = 86400;
const secret = generateSecretKey();
const me = getPublicKey(secret);
const pool = new SimplePool();
const wallet = new Wallet(mint, { unit: 'sat' });
const now = () => Math.floor(Date.now() / 1000);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const say = (step, what) => console.log(JSON.stringify({ step, ...what }));

// offer.md, heartbeat.md: the newest offer of the provider, while it is online.
async function findOffer() {
  for (const end = now() + 60; now() < end; await pause(500)) {
    const filter = { kinds: [38383], authors: [provider], '#t': ['paygress'] };
    const [newest] = (await pool.querySync([relay], filter)).sort((a, b) => b.created_at - a.created_at);
    const beats = await pool.querySync([relay], { kinds: [38384], authors: [provider], since: now() - 300 });
    const online = beats.map((beat) => JSON.parse(beat.content))
      .some((beat) => beat.provider_npub === provider && now() - beat.timestamp < 120);
    const offer = newest && JSON.parse(newest.content);
    if (online && offer?.provider_npub === provider && offer.satlet?.dialects.includes('satlet/1')) return offer;
  }
  throw new Error('no such provider is online');
}

// requests.md, "How messages travel": what comes for me from the provider.
function open(wrap) {
  const decrypt = (event) =>
    JSON.parse(nip44.decrypt(event.content, nip44.getConversationKey(secret, event.pubkey)));
  const seal = decrypt(wrap);
  if (seal.kind !== 13 || !verifyEvent(seal)) return undefined;
  const rumor = decrypt(seal);
  const honest = rumor.pubkey === seal.pubkey && rumor.kind === 14 && rumor.id === getEventHash(rumor);
  return honest && rumor.pubkey === provider ? JSON.parse(rumor.content) : undefined;
}

const answers = new Map(); // request id -> what to do with its reply
const notices = [];
function listen() {
  // Stamps are back-dated by up to two days, a clock may be wrong too.
  pool.subscribe([relay], { kinds: [1059], '#p': [me], since: now() - 2 * DAY - 3600 }, {
    onevent(wrap) {
      let message;
      try { message = open(wrap); } catch { return; }
      if (message?.type === 'notice') notices.push(message);
      if (message?.type !== 'reply' || message.error?.money === 'pending') return;
      answers.get(message.request_id)?.(message);
    },
  });
}

// requests.md, "Envelope": the same body and rumor until the answer is there.
async function ask(type, fields = {}) {
  const body = { satlet: 1, type, request_id: randomUUID(), expires_at: now() + 600, ...fields };
  const template = { kind: 14, content: JSON.stringify(body), tags: [['p', provider]], created_at: now() };
  const rumor = createRumor(template, secret);
  const answer = new Promise((done) => answers.set(body.request_id, done));
  for (let attempt = 0; attempt < 6; attempt++) {
    const once = generateSecretKey();
    const seal = JSON.stringify(createSeal(rumor, secret, provider));
    const wrap = finalizeEvent({
      kind: 1059,
      content: nip44.encrypt(seal, nip44.getConversationKey(once, provider)),
      tags: [['p', provider], ['expiration', String(now() + 3600)]],
      created_at: now() - Math.floor(Math.random() * 2 * DAY),
    }, once);
    await Promise.any(pool.publish([relay], wrap));
    const reply = await Promise.race([answer, pause(30_000)]);
    if (reply?.error) throw Object.assign(new Error(reply.error.message), reply.error);
    if (reply) return reply.result;
  }
  throw new Error(`no answer to ${type}`);
}

async function fund(sat) {
  const invoice = await wallet.createMintQuoteBolt11(sat);
  for (const end = now() + 60; now() < end; await pause(200)) {
    const { state } = await wallet.checkMintQuoteBolt11(invoice.quote);
    if (state === 'PAID') return wallet.mintProofsBolt11(sat, invoice.quote);
  }
  throw new Error('the invoice is not paid');
}

const sum = (proofs) => sumProofs(proofs).toNumber() * 1000;

async function main() {
  await wallet.loadMint();
  listen();
  const offer = await findOffer();
  say('offer', { hostname: offer.hostname, tiers: offer.satlet.tiers.map((tier) => tier.id) });
  const ssh_keys = [readFileSync(keyFile, 'utf8').trim()];
  const quote = await ask('quote', { ssh_keys, seconds: Number(seconds) });
  say('quote', quote);
  const price = Math.ceil(quote.price_msat / 1000);
  const proofs = await fund(price + 100);
  say('fund', { balance_msat: sum(proofs) });
  const { keep, send } = await wallet.send(price, proofs, { includeFees: true });
  const token = getEncodedToken({ mint, proofs: send, unit: 'sat' });
  const lease = await ask('spawn', { ssh_keys, token, quote_id: quote.quote_id });
  say('spawn', { ...lease, face_msat: sum(send) });
  say('status', await ask('status', { lease: lease.lease }));
  for await (const _line of process.stdin) break;
  const stopped = await ask('stop', { lease: lease.lease });
  say('stop', stopped);
  for (let waited = 0; !stopped.refund && waited < 60; waited++) {
    await pause(1000);
    stopped.refund = notices.find((notice) => notice.refund && notice.lease === lease.lease)?.refund;
  }
  const back = await wallet.receive(stopped.refund.token);
  say('refund', { received_msat: sum(back), balance_msat: sum([...keep, ...back]) });
}

main().then(() => process.exit(0), (error) => {
  const { code, money, message, suggestion, refund } = error;
  say('error', { code, money, message, suggestion, refund });
  process.exit(1);
});
