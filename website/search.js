// Stands in front of the theme's search worker: it rewrites what is asked, and
// puts in order what is found. The theme looks for any word that begins with one
// of the query.
const isStopWord = (word) => lunr.stopWordFilter(word.toLowerCase()) === undefined;

// "singularity" and "singularities" begin alike: ask for what they share.
const stem = (word) => {
  const stemmed = lunr.stemmer(new lunr.Token(word.toLowerCase())).toString();
  let same = 0;
  while (same < stemmed.length && stemmed[same] === word[same].toLowerCase()) same += 1;
  return same < 4 ? word : word.slice(0, same);
};

const rewrite = (query) => query
  // The text has American spelling.
  .replace(/(al|ar|ard|im|ant)is(?=(e[drs]?|ing|ations?)\b)/gi, "$1iz")
  // "groupnorm" is a class, and prose has two words.
  .replace(/\b[a-z]{3,}norm\b/gi, (name) => `${name} ${name.slice(0, -4)} norm`)
  .replace(/(?<=\w)-(?=\w)/g, " ")
  .trim().split(/\s+/)
  // "to" begins "torch". The last word may be one that is being typed.
  .filter((word, i, all) => i === all.length - 1 || !isStopWord(word))
  // "1" is not the beginning of "128".
  .map((word) => /^\d+$/.test(word) ? `${word}^1` : /^[a-z]+$/i.test(word) ? stem(word) : word)
  .join(" ");

// All words of the query in one place say more than one of them often.
const rank = (page) => Math.max(...page.map(({ score, terms }) => {
  const found = Object.values(terms);
  return score * (found.filter(Boolean).length / found.length) ** 3 || 0;
}));

const [QUERY, RESULT] = [2, 3];
addEventListener("message", ({ data: message }) => {
  if (message.type === QUERY && !message.data.includes('"')) message.data = rewrite(message.data);
});
const { postMessage: send } = self;
self.postMessage = (message) => {
  if (message.type === RESULT) message.data.items.sort((one, other) => rank(other) - rank(one));
  send(message);
};
