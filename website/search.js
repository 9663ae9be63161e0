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

// "GroupNorm" and "batchnorm2d" are classes, and prose has two words.
const withParts = (name) => `${name} ${name.replace(/norm([123]d)?$/i, " norm")
  .replace(/([a-z])(?=[A-Z])/g, "$1 ")}`;

// A whole word means more than the beginning of one, and "1" is not that of "128".
const term = (word) => {
  if (/^\d+$/.test(word)) return `${word}^1`;
  if (!/^[a-z]+$/i.test(word)) return word;
  const begins = stem(word);
  return begins === word ? `${word}^2 ${word}` : begins;
};

const rewrite = (query) => query
  // The text has American spelling.
  .replace(/(al|ar|ard|im|ant)is(?=(e[drs]?|ing|ations?)\b)/gi, "$1iz")
  .replace(/\b[a-z]{3,}norm([123]d)?\b/gi, withParts)
  .replace(/(?<=\w)-(?=\w)/g, " ")
  .trim().split(/\s+/)
  // "to" begins "torch". The last word may be one that is being typed.
  .filter((word, i, all) => i === all.length - 1 || !isStopWord(word))
  .map(term)
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
