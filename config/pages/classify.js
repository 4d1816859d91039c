// The page of the pipeline `classify`: sends pictures, follows their jobs, shows what became of them. No library, no build.
// Bounded: a few uploads and streams at a time (browsers open six connections to a host, and one must stay free), and a
// list of so many jobs. Never forgets an accepted job on a reload, and never sends a picture twice under two keys.
'use strict';

const UPLOADS_MAX = 2;
const STREAMS_MAX = 3;
const JOBS_MAX = 200;
const TRIES_MAX = 6;
const POLL_MS = 1000;
const THUMB_PX = 160;
const STORE = 'bulkhead.classify.jobs';

const words = {
  waiting: 'waiting for its turn', sending: 'sending', delayed: 'will be sent again', pending: 'stored, being classified',
  completed: 'done', failed: 'failed', refused: 'refused', lost: 'not sent',
};
const isOver = (job) => ['completed', 'failed', 'refused', 'lost'].includes(job.state);
const byId = (id) => document.getElementById(id);

/** Jobs by the order in which they came; what is shown, and what a reload keeps. */
let jobs = [];
let uploads = 0;
let streams = 0;
let isPolling = false;

// ---- keeping

function keep() {
  const kept = jobs.map(({ file, stream, timer, view, ...rest }) => rest);
  try {
    sessionStorage.setItem(STORE, JSON.stringify(kept));
  } catch {
    // No room for thumbnails: what the jobs are matters more than how they look.
    sessionStorage.setItem(STORE, JSON.stringify(kept.map(({ thumb, ...rest }) => rest)));
  }
}

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(STORE) ?? '[]');
  for (const job of kept) {
    if (!job.id && !isOver(job)) {
      Object.assign(job, { state: 'lost', message: 'The page was reloaded before this picture was accepted; choose it again.' });
    }
    jobs.push(job);
    show(job);
  }
}

// ---- adding and sending

function add(files) {
  byId('notice').textContent = '';
  const room = JOBS_MAX - jobs.filter((job) => !isOver(job)).length;
  const taken = [...files].slice(0, room);
  for (const file of taken) {
    const job = { key: randomKey(), name: file.name || 'pasted picture', bytes: file.size, state: 'waiting', tries: 0, file };
    jobs.push(job);
    show(job);
    thumbnail(job);
  }
  const over = jobs.length - JOBS_MAX;
  if (over > 0) jobs.filter(isOver).slice(0, over).forEach(remove);
  if (taken.length < files.length) {
    const notice = byId('notice');
    notice.textContent = `${files.length - taken.length} pictures were left out: ${JOBS_MAX} at a time are taken. Choose them again when these are done.`;
  }
  go();
}

/** The same key for every try: a picture that arrived although its answer did not is one job all the same. */
function randomKey() {
  // crypto.randomUUID is missing where a phone opens the page over plain HTTP.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

async function thumbnail(job) {
  let picture;
  try {
    picture = await createImageBitmap(job.file);
  } catch {
    return; // No picture to this browser; whether it is one to the daemon, the daemon says.
  }
  const scale = Math.min(1, THUMB_PX / Math.max(picture.width, picture.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext('2d').drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  update(job, { thumb: canvas.toDataURL('image/webp', 0.8) });
}

function go() {
  for (const job of jobs) {
    if (uploads >= UPLOADS_MAX) break;
    if (job.state === 'waiting') send(job);
  }
}

async function send(job) {
  uploads += 1;
  const began = performance.now();
  update(job, { state: 'sending', message: null, tries: job.tries + 1 });
  try {
    const form = new FormData();
    form.append('file', job.file, job.name);
    const answer = await fetch('api/classify', { method: 'POST', body: form, headers: { 'Idempotency-Key': job.key } });
    const told = await answer.json();
    if (answer.ok) {
      update(job, { id: told.jobId, state: 'pending', sent_ms: Math.round(performance.now() - began), file: null });
      follow(job);
    } else {
      refused(job, answer, told);
    }
  } catch {
    const isLarge = job.bytes > 4 << 20;
    later(job, 2, `The connection ended before there was an answer${isLarge ? '; the file may be too large' : ''}.`);
  } finally {
    uploads -= 1;
    go();
  }
}

/** The daemon's problem document says why; where it names a time, the picture is sent again by itself then. */
function refused(job, answer, problem) {
  const why = problem.detail || problem.title || `The daemon answered ${answer.status}.`;
  const after = Number(answer.headers.get('Retry-After'));
  if ([409, 429, 503].includes(answer.status)) later(job, after || 1, why);
  else update(job, { state: 'refused', message: why });
}

function later(job, seconds, why) {
  if (job.tries >= TRIES_MAX) return update(job, { state: 'refused', canTry: true, message: `${why} Tried ${job.tries} times.` });
  // A little apart, so that many pictures do not come back at once.
  const wait = seconds * 1000 * (1 + Math.random() / 2) * 2 ** Math.min(job.tries - 1, 4);
  update(job, { state: 'delayed', canTry: true, message: `${why} Next try in ${Math.ceil(wait / 1000)} s.` });
  job.timer = setTimeout(() => again(job), wait);
}

function again(job) {
  clearTimeout(job.timer);
  if (isOver(job)) job.tries = 0;
  update(job, { state: 'waiting', canTry: false, message: null });
  go();
}

// ---- following

function follow(job) {
  if (streams < STREAMS_MAX && !job.isCut && window.EventSource) listen(job);
  else poll();
}

function listen(job) {
  streams += 1;
  let cuts = 0;
  const stream = new EventSource(`api/results/${job.id}/events`);
  job.stream = stream;
  const end = () => {
    stream.close();
    if (job.stream) streams -= 1;
    job.stream = null;
  };
  for (const name of ['completed', 'failed']) {
    stream.addEventListener(name, (event) => {
      end();
      ended(job, JSON.parse(event.data));
    });
  }
  stream.addEventListener('pending', () => { cuts = 0; });
  stream.addEventListener('error', () => {
    cuts += 1;
    // It comes again by itself, unless it was refused; where that does not help, the job is asked for.
    if (stream.readyState === EventSource.CLOSED || cuts >= 2) {
      end();
      job.isCut = true;
      poll();
    }
  });
}

/** Asks for every job that has no stream, one after the other, until there is none. */
async function poll() {
  if (isPolling) return;
  isPolling = true;
  let asked;
  do {
    asked = jobs.filter((job) => job.state === 'pending' && !job.stream);
    for (const job of asked) {
      if (!job.isCut && streams < STREAMS_MAX) {
        listen(job);
        continue;
      }
      await ask(job);
    }
    if (asked.length > 0) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  } while (asked.length > 0);
  isPolling = false;
}

async function ask(job) {
  try {
    const answer = await fetch(`api/results/${job.id}`);
    const told = await answer.json();
    if (answer.status === 404 || answer.status === 410) {
      update(job, { state: 'lost', message: told.detail });
    } else if (answer.ok && told.status !== 'pending') {
      ended(job, told);
    } else {
      update(job, { message: answer.ok ? null : told.detail });
    }
  } catch {
    update(job, { message: 'The daemon cannot be reached. The job is stored; this page goes on asking.' });
  }
}

function ended(job, told) {
  const { result, error, timings } = told;
  const message = error ? `${error.message} (${error.code}, stage ${error.stage})` : null;
  update(job, { state: told.status, result, message, total_ms: timings?.total_ms });
  poll();
}

// ---- showing

function show(job) {
  job.view = byId('job').content.firstElementChild.cloneNode(true);
  job.view.querySelector('.again').addEventListener('click', () => again(job));
  job.view.querySelector('.remove').addEventListener('click', () => remove(job));
  byId('jobs').prepend(job.view);
  update(job, {});
}

function remove(job) {
  job.view.remove();
  jobs = jobs.filter((other) => other !== job);
  summarise();
  keep();
}

function update(job, changes) {
  Object.assign(job, changes);
  const part = (name) => job.view.querySelector(`.${name}`);
  const text = (name, value) => {
    part(name).textContent = value ?? '';
    part(name).hidden = !value;
  };
  job.view.dataset.state = job.state;
  text('name', job.name);
  part('name').title = job.name;
  part('word').textContent = words[job.state];
  text('message', job.message);
  text('label', job.result?.label);
  part('label').classList.toggle('long', (job.result?.label ?? '').length > 3);
  part('again').hidden = !(job.file && job.canTry);
  part('remove').hidden = !['refused', 'failed', 'lost'].includes(job.state);
  part('top').hidden = !job.result?.top;
  part('top').replaceChildren(...(job.result?.top ?? []).map(share));
  text('times', times(job));
  picture(job, part('thumb'));
  summarise();
  keep();
}

function share({ label, score }) {
  const percent = `${(score * 100).toFixed(1)} %`;
  const parts = ['name-of', 'share', 'percent'].map((name) => {
    const part = document.createElement('span');
    part.className = name;
    return part;
  });
  parts[0].textContent = label;
  parts[1].append(document.createElement('i'));
  parts[1].firstChild.style.setProperty('--share', `${score * 100}%`);
  parts[2].textContent = percent;
  const row = document.createElement('li');
  row.append(...parts);
  return row;
}

function times(job) {
  const told = [];
  if (job.sent_ms !== undefined) told.push(`stored in ${job.sent_ms} ms`);
  if (job.total_ms !== undefined && job.total_ms !== null) told.push(`answered after ${job.total_ms} ms`);
  if (job.result?.model) told.push(`model ${job.result.model.name} ${job.result.model.version}`);
  return told.join(' · ');
}

function picture(job, place) {
  if (!job.thumb || place.firstElementChild) {
    if (!job.thumb) place.textContent = '?';
    return;
  }
  const image = new Image();
  image.alt = '';
  image.src = job.thumb;
  place.replaceChildren(image);
}

/** Screen readers are told of each change: what did not change is not said again. */
function summarise() {
  const of = (state) => jobs.filter((job) => job.state === state).length;
  const open = jobs.filter((job) => !isOver(job)).length;
  const told = [[open, 'open'], [of('completed'), 'done'], [of('failed'), 'failed'], [of('refused') + of('lost'), 'not taken']];
  const text = told.filter(([count]) => count > 0).map(([count, word]) => `${count} ${word}`).join(' · ');
  if (byId('summary').textContent !== text) byId('summary').textContent = text;
  byId('none').hidden = jobs.length > 0;
  byId('clear').hidden = !jobs.some(isOver);
}

// ---- the page

byId('files').addEventListener('change', (event) => {
  add(event.target.files);
  event.target.value = '';
});
byId('clear').addEventListener('click', () => jobs.filter(isOver).forEach(remove));
for (const name of ['dragenter', 'dragover']) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.add('over');
  });
}
document.addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) document.body.classList.remove('over');
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('over');
  if (event.dataTransfer.files.length > 0) add(event.dataTransfer.files);
});
document.addEventListener('paste', (event) => {
  if (event.clipboardData.files.length > 0) add(event.clipboardData.files);
});
window.addEventListener('beforeunload', (event) => {
  if (jobs.some((job) => !job.id && !isOver(job))) event.preventDefault();
});

// The API's pages are served unless `http.docs` is false.
fetch('openapi.json', { method: 'HEAD' }).then((answer) => { byId('api').hidden = !answer.ok; }, () => {});
restore();
jobs.filter((job) => job.state === 'pending').forEach(follow);
